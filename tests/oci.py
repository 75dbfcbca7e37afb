"""OCI image layouts as tars, made by hand: honest ones and others. Standard library only."""
import gzip
import hashlib
import io
import json
import tarfile

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def pack(entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in entries:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def file(name, data):
    return tarfile.TarInfo(name), data


def blob(data):
    """(digest, entry of the archive)"""
    name = hashlib.sha256(data).hexdigest()
    return f"sha256:{name}", file(f"blobs/sha256/{name}", data)


def archive(layers, manifest=None, index=None, prefix=""):
    """The bytes of an archive; a layer is a list of entries, or bytes. manifest and index are called
    with what would be written, and return what is."""
    descriptors = []
    entries = []
    for layer in layers:
        data = layer if isinstance(layer, bytes) else gzip.compress(pack(layer), 1, mtime=0)
        digest, one = blob(data)
        entries.append(one)
        kind = LAYER + ("+gzip" if data[:2] == b"\x1f\x8b" else "")
        descriptors.append({"mediaType": kind, "digest": digest, "size": len(data)})
    diffs = ["sha256:" + hashlib.sha256(gzip.decompress(layer) if layer[:2] == b"\x1f\x8b" else layer)
             .hexdigest() for layer in [data for _, data in entries]]
    config = {"architecture": "amd64", "os": "linux", "config": {"Env": ["A=1"], "Cmd": ["/bin/sh"]},
              "created": "2026-01-02T03:04:05Z", "rootfs": {"type": "layers", "diff_ids": diffs}}
    digest, one = blob(json.dumps(config).encode())
    entries.append(one)
    text = {"schemaVersion": 2, "mediaType": MANIFEST, "layers": descriptors,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest,
                       "size": len(one[1])}}
    text = manifest(text) if manifest else text
    digest, one = blob(text if isinstance(text, bytes) else json.dumps(text).encode())
    entries.append(one)
    text = {"schemaVersion": 2,
            "manifests": [{"mediaType": MANIFEST, "digest": digest, "size": len(one[1])}]}
    text = index(text) if index else text
    entries.append(file("index.json", text if isinstance(text, bytes) else json.dumps(text).encode()))
    entries.append(file("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'))
    for info, _ in entries:
        info.name = prefix + info.name
    return pack(entries)
