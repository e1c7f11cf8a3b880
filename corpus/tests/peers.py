"""Our files in other programs' hands, and theirs in ours: `make test-peers`.

Each peer that cannot be imported is skipped with its reason. Usage: peers.py LLMC_DATA
"""

import importlib
import json
import os
import struct
import subprocess
import sys
import tempfile

LLMC_DATA = sys.argv[1]
TEXTS = [f"Document {n}: " + "词 word " * (n % 40) for n in range(300)]
DTYPES = {1: "B", 2: "b", 3: "h", 4: "i", 5: "q", 8: "H"}


def run(*arguments):
    subprocess.run([LLMC_DATA, *arguments], check=True, stderr=subprocess.DEVNULL)


def build(root, globs, out, importing=None, in_place=False):
    """Builds one source without a validation split and returns its documents."""
    tokenizer = {"import": importing} if importing else {"vocab": 400}
    spec = {"root": root, "context": 64, "validation": {"fraction": 0}, "tokenizer": tokenizer,
            "sources": [{"name": "s", "globs": [globs], "in_place": in_place}]}
    path = os.path.join(root, "data.json")
    with open(path, "w") as file:
        json.dump(spec | {"root": "."}, file)
    run("build", "--spec", path, "--out", out)
    return documents(os.path.join(out, "s.train"))


def documents(prefix):
    """A shard by the format's description, without any library."""
    with open(prefix + ".idx", "rb") as file:
        index = file.read()
    with open(prefix + ".bin", "rb") as file:
        tokens = file.read()
    code, sequences, _ = struct.unpack_from("<BQQ", index, 17)
    lengths = struct.unpack_from(f"<{sequences}i", index, 34)
    pointers = struct.unpack_from(f"<{sequences}q", index, 34 + 4 * sequences)
    return [list(struct.unpack_from(f"<{n}{DTYPES[code]}", tokens, at)) for n, at in zip(lengths, pointers)]


def peer(name):
    try:
        return importlib.import_module(name)
    except Exception as error:  # noqa: BLE001: a peer may fail to import in any way
        print(f"skipped {name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        return None


def webdataset_reads(webdataset, root, out, expected):
    """Our tars in webdataset's hands, and in those of `datasets`, which reads the same format by itself."""
    good = True
    for kind, member, values in [([], "input_ids.npy", expected), (["--text"], "txt", TEXTS)]:
        folder = os.path.join(root, "tars" + "".join(kind))
        run("export", out, "--out", folder, "--format", "webdataset", *kind)
        with open(os.path.join(folder, "s-train.json")) as file:
            tars = [os.path.join(folder, shard["url"]) for shard in json.load(file)["shardlist"]]
        samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode())
        read = [value if kind else value.tolist() for value in (sample[member] for sample in samples)]
        keys = [f"s-train-{n:09}" for n in range(len(values))]
        good &= check(f"webdataset reads our tars, {member}", read == values and [s["__key__"] for s in samples] == keys)
        if datasets := peer("datasets"):
            loaded = datasets.load_dataset("webdataset", data_files=tars, split="train", cache_dir=os.path.join(root, "hf"))
            good &= check(f"datasets reads our tars, {member}", [list(v) if not kind else v for v in loaded[member]] == values)
    return good


def check(what, equal):
    print(("ok      " if equal else "FAILED  ") + what)
    return equal


def main():
    good = True
    with tempfile.TemporaryDirectory() as root:
        with open(os.path.join(root, "a.jsonl"), "w") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in TEXTS)
        out = os.path.join(root, "out")
        expected = build(root, "a.jsonl", out)
        tokenizer = os.path.join("out", "tokenizer.json")
        run("export", out, "--out", os.path.join(root, "parquet"))
        exported = os.path.join(root, "parquet", "s.train.parquet")

        if parquet := peer("pyarrow.parquet"):
            import pyarrow

            good &= check("pyarrow reads our Parquet", parquet.read_table(exported)["input_ids"].to_pylist() == expected)
            theirs = os.path.join(root, "theirs.parquet")
            parquet.write_table(pyarrow.table({"id": list(range(300)), "text": TEXTS}), theirs)
            read = build(root, "theirs.parquet", os.path.join(root, "out2"), tokenizer)
            good &= check("we read pyarrow's Parquet of text", read == expected)
            lists = pyarrow.array(expected, pyarrow.list_(pyarrow.int64()))
            parquet.write_table(pyarrow.table({"input_ids": lists}), theirs, compression="zstd")
            read = build(root, "theirs.parquet", os.path.join(root, "out3"), tokenizer)
            good &= check("we read pyarrow's Parquet of tokens", read == expected)

        if datasets := peer("datasets"):
            loaded = datasets.load_dataset("parquet", data_files=exported, split="train", cache_dir=os.path.join(root, "hf"))
            good &= check("datasets reads our Parquet", loaded["input_ids"][:] == expected)

        if webdataset := peer("webdataset"):
            tar = os.path.join(root, "theirs.tar")
            with webdataset.TarWriter(tar) as writer:
                for n, text in enumerate(TEXTS):
                    writer.write({"__key__": f"{n:06}", "txt": text, "cls": n})
            read = build(root, "theirs.tar", os.path.join(root, "out4"), tokenizer)
            good &= check("we read webdataset's tar", read == expected)
            # As `wids/wids_index.py` of webdataset 0.2 wrote it; later versions have no index.
            shard = {"url": "theirs.tar", "nsamples": len(TEXTS), "filesize": os.path.getsize(tar)}
            with open(os.path.join(root, "theirs.index.json"), "w") as file:
                json.dump({"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": [shard]}, file)
            read = build(root, "theirs.index.json", os.path.join(root, "out6"), tokenizer)
            good &= check("we read webdataset's tar by an index of wids", read == expected)
            good &= webdataset_reads(webdataset, root, out, expected)

        if indexed := peer("megatron.core.datasets.indexed_dataset"):
            import numpy
            import torch

            theirs = indexed.IndexedDataset(os.path.join(out, "s.train"))
            read = [theirs[n].tolist() for n in range(len(theirs))]
            good &= check("Megatron-core reads our .idx/.bin", read == expected)
            prefix = os.path.join(root, "theirs")
            builder = indexed.IndexedDatasetBuilder(prefix + ".bin", dtype=numpy.int32)
            for ids in expected:
                builder.add_document(torch.tensor(ids, dtype=torch.int32), [len(ids)])
            builder.finalize(prefix + ".idx")
            read = build(root, "theirs.bin", os.path.join(root, "out5"), tokenizer)
            good &= check("we read Megatron-core's .idx/.bin", read == expected)
            linked = os.path.join(root, "out7")
            read = build(root, "theirs.bin", linked, tokenizer, in_place=True)
            good &= check("we read Megatron-core's .idx/.bin in place", read == expected)
            linked = indexed.IndexedDataset(os.path.join(linked, "s.train"))
            read = [linked[n].tolist() for n in range(len(linked))]
            good &= check("Megatron-core reads what we read in place", read == expected)
    sys.exit(0 if good else 1)


main()
