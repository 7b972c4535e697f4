"""Tasks that learn on top of a trained encoder: probes for labels, a segmentation head, report generation."""
