"""nnU-Net v2 trained on real and synthetic cases together: converter, plans from real cases only, and a trainer."""
