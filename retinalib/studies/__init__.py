"""What a chapter asks: anchor coverage, network cost, gates, shapes, agreement, statistics."""
