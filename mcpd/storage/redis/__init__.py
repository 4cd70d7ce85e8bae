"""What several processes share through Redis; `keys` names every key and channel."""
