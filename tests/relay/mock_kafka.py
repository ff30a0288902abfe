"""Runs librdkafka's mock of a Kafka cluster: prints its port, and does what the lines of its standard input say.

`push KEY CODE [CODE ...]` answers the next requests of that kind with errors, `topic NAME CODE` has a topic's metadata
say one, `down` and `up` are the broker's. Each line is answered with one.
"""

from __future__ import annotations

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path


def library() -> str | None:
    """Return the path of the library that the wheel of confluent_kafka brings."""
    spec = find_spec("confluent_kafka")
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    found = [*package.with_suffix(".libs").glob("librdkafka*"), *package.glob(".dylibs/librdkafka*")]
    return str(found[0]) if found else None


def main() -> None:
    kafka = ctypes.CDLL(library())
    for name in ("rd_kafka_new", "rd_kafka_mock_cluster_new", "rd_kafka_conf_new"):
        getattr(kafka, name).restype = ctypes.c_void_p
    kafka.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    words = ctypes.create_string_buffer(512)
    configuration = ctypes.c_void_p(kafka.rd_kafka_conf_new())
    kafka.rd_kafka_conf_set(configuration, b"log_level", b"0", words, 512)
    handle = ctypes.c_void_p(kafka.rd_kafka_new(0, configuration, words, 512))
    assert handle, words.value
    cluster = ctypes.c_void_p(kafka.rd_kafka_mock_cluster_new(handle, 1))
    print(kafka.rd_kafka_mock_cluster_bootstraps(cluster).decode().rpartition(":")[2], flush=True)
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "push":
            key, *codes = map(int, arguments)
            found = (ctypes.c_int * len(codes))(*codes)
            kafka.rd_kafka_mock_push_request_errors_array(cluster, key, ctypes.c_size_t(len(codes)), found)
        elif command == "topic":
            kafka.rd_kafka_mock_topic_set_error(cluster, arguments[0].encode(), int(arguments[1]))
        else:
            getattr(kafka, f"rd_kafka_mock_broker_set_{command}")(cluster, 1)
        print("done", flush=True)


if __name__ == "__main__":
    main()
