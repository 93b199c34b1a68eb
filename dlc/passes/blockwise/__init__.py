"""What outgrows the cache, as loops over blocks that fit."""
