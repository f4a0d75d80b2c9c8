"""Writes data/bin/: torch.save files a restricted reader must read, and ones it must refuse. See README.md."""

import collections
import io
import json
import os
import pickle
import shutil
import zipfile

import torch
from safetensors.torch import save_file

from common import DATA

OUT = DATA / "bin"


class Call:
    """Pickles as a call of `function`, which an ordinary unpickler would make."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def rezip(source, target, change, compression=zipfile.ZIP_STORED):
    """Copies a zip, passing every member through change(name, bytes) -> bytes or None (dropped)."""
    with zipfile.ZipFile(OUT / source) as old, zipfile.ZipFile(
        OUT / target, "w", compression
    ) as new:
        for name in old.namelist():
            body = change(name, old.read(name))
            if body is not None:
                new.writestr(zipfile.ZipInfo(name), body, compress_type=compression)


def benign():
    gen = torch.Generator().manual_seed(5)
    base = torch.randn(6, 4, generator=gen)
    files = {
        "dtypes": {
            "f64": torch.randn(3, generator=gen, dtype=torch.float64),
            "f32": base.clone(),
            "f16": torch.randn(2, 3, generator=gen).half(),
            "bf16": torch.randn(2, 3, generator=gen).bfloat16(),
            "i64": torch.tensor([[-(2**40), 7], [0, 2**62]]),
            "i32": torch.tensor([-5, 6], dtype=torch.int32),
            "u8": torch.tensor([0, 255], dtype=torch.uint8),
            "bool": torch.tensor([True, False]),
            "scalar": torch.tensor(2.5),
            "empty": torch.zeros(0, 3),
        },
        "strided": {  # views: the file holds the whole storage, the pickle offset and strides
            "transposed": base.clone().T,
            "every_second_row": base.clone()[1::2],
            "offset": base.clone()[2:4, 1:3],
            "broadcast": torch.randn(3, 1, generator=gen).expand(3, 4),
            "permuted": torch.randn(2, 3, 4, generator=gen).permute(2, 0, 1),
        },
        "shared": {"embedding": base, "head": base, "row": base[1], "tail": base[4:]},
    }
    layer = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=gen))
    files["state_dict"] = layer.state_dict()  # an OrderedDict with a _metadata attribute
    files["parameters"] = collections.OrderedDict(
        layer.named_parameters()
    )  # torch.nn.Parameter objects
    # A training checkpoint: tensors below "model", plain values beside them.
    files["nested"] = {
        "model": collections.OrderedDict(w=base[:2].clone(), b=base[0].clone()),
        "step": 7,
        "lr": 1e-3,
        "name": "tiny",
        "done": False,
        "nothing": None,
        "big": 2**80,
        "shape": (6, [4, 2]),
        "text": "Größe",
    }
    expected = {}
    for name, content in files.items():
        torch.save(content, OUT / f"{name}.bin")
        tensors = content if name != "nested" else content["model"]
        prefix = f"{name}/" if name != "nested" else "nested/model."
        for key, t in tensors.items():
            expected[prefix + key] = t.detach().contiguous().clone()
    save_file(expected, OUT / "expected.safetensors")
    torch.save(
        files["strided"], OUT / "protocol4.bin", pickle_protocol=4
    )  # same contents as strided.bin


def hostile():
    tensor = torch.arange(6.0).reshape(2, 3)
    marker = "adder_golden_was_executed"  # a reader that executes leaves this file behind
    torch.save({"w": tensor, "x": Call(os.system, f"touch {marker}")}, OUT / "hostile_system.bin")
    torch.save(
        {"w": tensor, "x": Call(eval, f"open('{marker}', 'w').close()")}, OUT / "hostile_eval.bin"
    )
    torch.save({"w": tensor, "x": Call(getattr, "text", "upper")}, OUT / "hostile_getattr.bin")
    torch.save(Call(exec, f"open('{marker}', 'w').close()"), OUT / "hostile_exec_top.bin")
    torch.save(
        {"w": tensor, "x": Call(os.system, f"touch {marker}")},
        OUT / "hostile_legacy.bin",
        _use_new_zipfile_serialization=False,
    )
    torch.save({"w": tensor}, OUT / "plain.bin")
    torch.save(
        torch.nn.Linear(2, 2), OUT / "hostile_module.bin"
    )  # a whole module: classes outside the allowed ones

    def storage(name):
        return "/data/" in name

    # Files whose parts do not agree with each other.
    rezip("plain.bin", "bad_short_storage.bin", lambda n, b: b[:8] if storage(n) else b)
    rezip("plain.bin", "bad_missing_storage.bin", lambda n, b: None if storage(n) else b)
    rezip("plain.bin", "bad_no_pickle.bin", lambda n, b: None if n.endswith("data.pkl") else b)
    rezip(
        "plain.bin",
        "bad_truncated_pickle.bin",
        lambda n, b: b[: len(b) // 2] if n.endswith("data.pkl") else b,
    )
    rezip("plain.bin", "bad_empty_pickle.bin", lambda n, b: b"" if n.endswith("data.pkl") else b)
    rezip(
        "plain.bin",
        "bad_garbage_pickle.bin",
        lambda n, b: bytes(255 - x for x in b) if n.endswith("data.pkl") else b,
    )
    rezip(
        "plain.bin", "deflated.bin", lambda n, b: b, zipfile.ZIP_DEFLATED
    )  # torch never writes this
    whole = (OUT / "plain.bin").read_bytes()
    (OUT / "bad_truncated_zip.bin").write_bytes(whole[: len(whole) // 2])
    (OUT / "bad_not_a_zip.bin").write_bytes(b"this is not a checkpoint\n")
    (OUT / "bad_empty.bin").write_bytes(b"")

    # Geometry that points outside the storage, or is absurd: written as torch would, with altered numbers.
    def geometry(target, offset, shape, stride, count=6):
        class Storage:  # becomes the persistent id of a float storage of `count` elements
            pass

        class Pickler(pickle.Pickler):
            def persistent_id(self, obj):
                return (
                    ("storage", torch.FloatStorage, "0", "cpu", count)
                    if isinstance(obj, Storage)
                    else None
                )

        body = io.BytesIO()
        arguments = (Storage(), offset, shape, stride, False, collections.OrderedDict())
        Pickler(body, protocol=2).dump({"w": Call(torch._utils._rebuild_tensor_v2, *arguments)})
        rezip("plain.bin", target, lambda n, b: body.getvalue() if n.endswith("data.pkl") else b)

    geometry("geometry_good.bin", 0, (2, 3), (3, 1))  # the control: this one must be read
    geometry("bad_offset.bin", 1, (2, 3), (3, 1))
    geometry("bad_negative_offset.bin", -1, (2, 3), (3, 1))
    geometry("bad_stride.bin", 0, (2, 3), (4, 1))
    geometry("bad_negative_stride.bin", 5, (2, 3), (-3, -1))
    geometry("bad_negative_shape.bin", 0, (-2, 3), (3, 1))
    geometry("bad_overflow.bin", 0, (2**62, 4), (0, 0))
    geometry("bad_overflow_stride.bin", 0, (3, 3), (2**62, 2**62))
    geometry("bad_rank.bin", 0, (2, 3), (3,))
    geometry("bad_count.bin", 0, (2, 3), (3, 1), count=2**40)

    def opcodes(target, body):
        rezip("plain.bin", target, lambda n, b: body if n.endswith("data.pkl") else b)

    opcodes("bad_deep.bin", b"\x80\x02" + b"(" * 4000 + b"]" + b".")  # marks without end
    opcodes("bad_stack_underflow.bin", b"\x80\x02" + b"R.")
    opcodes("bad_memo.bin", b"\x80\x02h\x63.")  # reads a memo entry that was never written
    opcodes("bad_long_string.bin", b"\x80\x02X\xff\xff\xff\x7fabc.")  # claims 2 GiB of text
    opcodes(
        "bad_nested_lists.bin", b"\x80\x02" + b"]" * 20000 + b"a" * 19999 + b"."
    )  # 20,000 lists in each other


def verdicts():
    """What a restricted reader must do with each file. Either: not torch's own form; only crashing is wrong."""
    either = {"deflated.bin", "protocol4.bin", "bad_deep.bin", "bad_nested_lists.bin"}
    names = sorted(p.name for p in OUT.glob("*.bin"))
    refuse = [n for n in names if n.startswith(("bad_", "hostile_")) and n not in either]
    return {
        "read": [n for n in names if n not in either and n not in refuse],
        "refuse": refuse,
        "either": sorted(either),
    }


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    torch.manual_seed(0)
    benign()
    hostile()
    (OUT / "verdicts.json").write_text(json.dumps(verdicts(), indent=1) + "\n")
    # For comparison: torch's own restricted reader. It lets a short storage and a wrong count pass.
    for path in sorted(OUT.glob("*.bin")):
        try:
            torch.load(path, weights_only=True)
            verdict = "read"
        except Exception as error:  # any refusal will do
            verdict = f"refused ({type(error).__name__})"
        print(f"{path.name:28} {path.stat().st_size:6} bytes, torch: {verdict}")


if __name__ == "__main__":
    main()
