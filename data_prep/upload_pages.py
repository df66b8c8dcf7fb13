#!/usr/bin/env python3
"""Pages that are built already to a bucket; what is there is not sent again:

python data_prep/upload_pages.py data/pages gs://my-bucket/pages --region us-central1
"""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from jaxgpt.command import parse, run


def main() -> None:
    description = "Pages that are built already to a bucket; what is there is not sent again."
    parser = ArgumentParser(prog="upload_pages.py", description=description, exit_on_error=False)
    parser.add_argument("folder", type=str, help="that make_tfrecords.py wrote")
    parser.add_argument("url", type=str, help="gs://BUCKET/FOLDER to copy it to")
    parser.add_argument("--region", type=str | None, default=None, help="the bucket has to be in, as in us-central1")
    args = parse(parser, sys.argv[1:])
    from jaxgpt.data.upload import upload

    done = upload(Path(args.folder), args.url, args.region)
    print(f"{done.url} has {done.files} files, {done.bytes:,} bytes; {done.files_sent} were sent now")


if __name__ == "__main__":
    run(main)
