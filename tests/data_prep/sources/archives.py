"""Archives as OpenWebText's: an xz-packed tar of xz-packed tars of text files."""

import io
import lzma
import tarfile


def tar_of(files, format=tarfile.GNU_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write_archive(path, subsets):
    """subsets: name -> {name: document as bytes}"""
    inner = {name: lzma.compress(tar_of(files)) for name, files in subsets.items()}
    path.write_bytes(lzma.compress(tar_of(inner)))
