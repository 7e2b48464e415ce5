"""How a run is started, recorded, resumed and shared by processes."""
