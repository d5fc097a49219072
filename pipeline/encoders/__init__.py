"""The frozen encoders: waveforms or sentences in, one vector each out."""
