"""Holds a JSON document against its schema: schema.py JSON-SCHEMAS KIND DOCUMENT

A field that the schema does not have is a failure here, though readers have to ignore it.
"""

import json
import sys
from pathlib import Path

import jsonschema


def closed(schema):
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(value) for name, value in schema.items()}
    if made.get("type") == "object":
        made["additionalProperties"] = False
    return made


def main(folder, kind, path):
    # Both are one document here.
    read = lambda name: json.loads((Path(folder) / f"{name}.json").read_text().replace("common.json#", "#"))
    schema = closed(read(kind) | {"$defs": read("common")["$defs"]})
    for error in jsonschema.Draft202012Validator(schema).iter_errors(json.loads(Path(path).read_text())):
        sys.exit(f"{path}: {list(error.absolute_path)}: {error.message}")


main(*sys.argv[1:])
