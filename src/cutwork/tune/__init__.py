"""Fine-tuning with torch: losses, masks, the trainer. Nothing here may import `cutwork.engine`."""
