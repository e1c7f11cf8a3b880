"""Collects real text that any machine has: the Python standard library, one file a document, as JSONL.

Usage: python3 quickstart_text.py OUT.jsonl
"""

import json
import os
import sys
import sysconfig

LIMIT = 12_000_000  # bytes; more would only lengthen the tokenizer's training
SKIP = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"}


def files(root):
    """Every .py file under root in sorted order, without tests and installed packages."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if f not in SKIP)
        for name in sorted(names):
            if name.endswith(".py"):
                yield os.path.join(folder, name)


def main(out):
    root = sysconfig.get_path("stdlib")
    os.makedirs(os.path.dirname(out), exist_ok=True)
    size = count = 0
    with open(out + ".part", "w", encoding="utf-8") as sink:
        for path in files(root):
            try:
                with open(path, encoding="utf-8") as source:
                    text = source.read()
            except (OSError, UnicodeDecodeError):
                continue  # a handful of files in other encodings
            if not text.strip() or size + len(text) > LIMIT:
                continue
            sink.write(json.dumps({"text": text, "path": os.path.relpath(path, root)}, ensure_ascii=False) + "\n")
            size += len(text.encode())
            count += 1
    if size < 5_000_000:
        sys.exit(f"the Python standard library at {root} holds only {size:,} bytes of source; 5,000,000 are needed")
    os.replace(out + ".part", out)
    print(f"quickstart text: {count:,} documents, {size / 1e6:.1f} MB from {root}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1])
