"""The study of heads: ablation, importance, gates, links."""
