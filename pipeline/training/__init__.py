"""Stage two: projection heads train from cached tensors; nothing of stage one is imported."""
