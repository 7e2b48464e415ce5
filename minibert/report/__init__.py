"""Results to read: tables, figures, pages."""
