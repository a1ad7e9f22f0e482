"""Raw files in object stores: read by both engines, and refused in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers import call, fails, run_process
from test_ray import EVENTS, RAY, contents, table

pytest.importorskip("s3fs", reason="needs the extra cluster")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("log") / "log.parquet"
    pq.write_table(table(0), file)
    return file


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    """A bucket of an S3 server on this machine."""
    server = pytest.importorskip("moto.server", reason="needs moto")
    boto3 = pytest.importorskip("boto3", reason="needs boto3")
    here = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    here.start()
    host, port = here.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x"), ("AWS_REGION", "us-east-1"),
                            ("AWS_ENDPOINT_URL", f"http://{host}:{port}")):  # fmt: skip
            patch.setenv(name, value)
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="logs")
        yield client
    here.stop()


def test_a_bucket(bucket: Any, log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bucket.upload_file(str(log), "logs", "days/a.parquet")
    bucket.put_object(Bucket="logs", Key="days/_SUCCESS", Body=b"x")
    raws = {"here": log, "folder": "s3://logs/days", "pattern": "s3://logs/days/*.parquet"}
    for name, raw in raws.items():
        assert call("prepare", *EVENTS, "--raw", raw, "--out", tmp_path / name) == 0
    assert contents(tmp_path / "here") == contents(tmp_path / "folder") == contents(tmp_path / "pattern")
    for raw, names in (("s3://nowhere/x.csv", "s3://nowhere/x.csv: the store does not give it .*credentials"),
                       ("s3://logs/none/*", r"s3://logs/none/\*: no raw files here"),
                       ("none://x/y", "none://x/y: the store does not give it .*Protocol not known")):  # fmt: skip
        fails(capsys, "prepare", *EVENTS, "--raw", raw, "--out", tmp_path / "bad", names=names)


@pytest.mark.slow
def test_a_bucket_read_by_tasks(bucket: Any, log: Path, tmp_path: Path) -> None:
    bucket.upload_file(str(log), "logs", "more/b.parquet")
    assert call("prepare", *EVENTS, "--raw", log, "--out", tmp_path / "here") == 0
    argv = (*EVENTS, "--raw=s3://logs/more/*", "--out", tmp_path / "ray", *RAY, "--shards=2", "--workers=1")
    status, _, err = run_process("prepare", *argv)  # whose tasks know the server
    assert status == 0, err
    assert contents(tmp_path / "here") == contents(tmp_path / "ray")


def test_a_store_without_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # never the real one
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    fails(capsys, "prepare", *EVENTS, "--raw=s3://logs/x.csv", "--out", tmp_path / "bad", names="NoCredentialsError")
