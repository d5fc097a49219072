"""What is encoded: corpora as manifests, and the captions that describe their utterances."""
