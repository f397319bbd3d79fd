"""Models in torch, as pruning, tuning and quantising share them. Nothing here may import `cutwork.engine`."""
