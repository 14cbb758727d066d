"""What a chapter asks: anchor coverage, network cost, gates, agreement, statistics."""
