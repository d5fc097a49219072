"""extract-features: the frozen encoders run once, into STORES."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.common import (
    device_option,
    fresh_option,
    guarded,
    json_option,
    listed,
    overrides_option,
    plugin_option,
    show,
)
from pipeline.commands.completion import FOLDER, of_extraction, presets, settings
from pipeline.commands.usage_errors import Command


@click.command("extract-features", cls=Command)
@click.argument("config", shell_complete=presets("corpora"))
@click.option("--out", type=FOLDER, help="The folder of the stores.  [default: stores/NAME]")
@click.option("--audio-root", type=FOLDER, help="The corpus folder on this machine.")
@click.option(
    "--encoders",
    help="A preset of configs/encoders: paper, embedded.",
    shell_complete=presets("encoders", or_file=False),
)
@overrides_option(settings(of_extraction))
@device_option
@click.option(
    "--engine",
    type=click.Choice(["threads", "ray"]),
    default="threads",
    show_default=True,
    help="Encode on this machine, or on a Ray cluster.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    help="Of the speech encoder's products.  [default: bfloat16 for a WavLM on CUDA, else float32]",
)
@click.option("--limit", type=click.IntRange(min=1), help="Encode about this many utterances now, spread over all.")
@click.option("--retry-failed", is_flag=True, help="Give failed rows another chance.")
@click.option("--strict", is_flag=True, help="Exit 3 when rows failed.")
@fresh_option
@click.option("--dry-run", is_flag=True, help="Read and check everything, say what would be done, write nothing.")
@click.option("--status", is_flag=True, help="Count done, failed and pending rows, and name the failed ones.")
@click.option(
    "--verify",
    is_flag=False,
    flag_value="stores",
    type=click.Choice(["stores", "deep"]),
    help="Check every byte of the stores; --verify=deep hashes all audio again as well.",
)
@plugin_option
@json_option
@guarded
def main(
    config: str,
    out: Path | None,
    audio_root: Path | None,
    encoders: str | None,
    overrides: tuple[str, ...],
    device: str,
    engine: str,
    precision: str | None,
    limit: int | None,
    retry_failed: bool,
    strict: bool,
    fresh: bool,
    dry_run: bool,
    status: bool,
    verify: str | None,
    as_json: bool,
) -> None:
    """Run the frozen encoders once over a corpus and its captions.

    \b
    extract-features msp_podcast --audio-root /data/MSP-PODCAST --out stores/msp
    extract-features my/manifest.csv --out stores/mine           (embedded encoders)
    extract-features my/manifest.csv --encoders paper --out stores/mine-paper
    extract-features my/manifest.csv --plugin my_encoder.py -o audio.encoder=mine --out stores/mine-own
    extract-features msp_podcast --out stores/msp --status

    CONFIG is a preset (msp_podcast, iemocap, ravdess, emodb, cremad, tess), a YAML file or a manifest (.csv, .jsonl).
    Doing it again goes on where it stopped.
    """
    folder = out or Path("stores") / Path(config).stem
    if status or verify:
        _inspect(folder, verify, audio_root, as_json)
        return
    from pipeline.core.errors import QuarantinedRows
    from pipeline.extraction.extract import extract, plan_extraction, resolve_extraction
    from pipeline.extraction.status import status_table

    if precision:
        overrides = (*overrides, f"audio.precision={precision}")
    resolved = resolve_extraction(config, audio_root=audio_root, encoders=encoders, overrides=overrides)
    if dry_run:
        plan = plan_extraction(resolved, out=folder, device=device)
        show(plan, listed(plan), as_json)
        return
    result = extract(
        resolved, out=folder, device=device, engine=engine, limit=limit, retry_failed=retry_failed, fresh=fresh
    )
    show(result, status_table(result), as_json)
    if strict and result["failures"]:
        raise QuarantinedRows(
            folder, f"{len(result['failures'])} failed rows", "none (--strict)", "See the list above."
        )


def _inspect(folder: Path, verify: str | None, audio_root: Path | None, as_json: bool) -> None:
    from pipeline.extraction import status as stores

    found = stores.status_of(folder)
    text = stores.status_table(found)
    if verify:
        found["verified"] = stores.verify(folder)
        text += f"\n  verified: {found['verified']:,} rows and every header match their checksums"
    if verify == "deep":
        found["sources_verified"] = stores.verify_sources(folder, audio_root)
        text += f"\n  verified: {found['sources_verified']:,} audio files and texts are those that were encoded"
    show(found, text, as_json)
