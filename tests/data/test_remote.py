"""Remote files on a real S3 server on loopback: fetched once, resumed when interrupted, refused when damaged."""

import io
import json
import os
import select
import socket
import sys
import tarfile
import threading
import time
from urllib.parse import urlsplit

import datasets
import fsspec
import numpy as np
import pytest
from toy import config_settings

import prepare_data
import recipe.data.archives
import recipe.data.filesystems
import recipe.data.remote
import recipe.data.upload
from recipe.data.corpus import open_corpus
from recipe.data.preparation import prepare_tokens
from recipe.data.prepared_tokens import load_prepared
from recipe.data.remote import fetch
from recipe.data.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from recipe.data.upload import require_writable, upload_files, upload_tokens
from recipe.system.errors import SourceBroken, UserError
from recipe.system.files import sha256_of

pytestmark = pytest.mark.skipif(
    not hasattr(tarfile, "data_filter"), reason="this Python refuses archives: 3.11.4, 3.12"
)


@pytest.fixture(scope="module")
def server():
    """The URL of a local S3 server."""
    pytest.importorskip("s3fs", reason="pip install s3fs")
    moto = pytest.importorskip("moto.server", reason="pip install 'moto[server]'")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def use(monkeypatch, tmp_path):
    """Points s3:// to a server, with credentials or without, whatever the environment sets."""

    def use(endpoint: str, credentials: bool = True):
        for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
        if credentials:
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "toy")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "toy")
            monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()

    s3fs = pytest.importorskip("s3fs", reason="pip install s3fs")
    yield use
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(server, use):
    """The file system of the server, with an empty bucket named `bucket`."""
    use(server)
    system = fsspec.filesystem("s3")
    if system.exists("bucket"):
        system.rm("bucket", recursive=True)
    system.mkdir("bucket")
    return system


class Proxy:
    """A TCP proxy that counts the bytes sent by the server, and closes all connections after `limit` of them."""

    def __init__(self, url: str, limit: int | None = None):
        parts = urlsplit(url)
        self.server, self.limit, self.sent = (parts.hostname, parts.port), limit, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client):
        with client, socket.create_connection(self.server) as server:
            while self.limit is None or self.sent < self.limit:
                for end in select.select([client, server], [], [], 5)[0]:
                    if not (data := end.recv(1 << 14)):
                        return
                    (server if end is client else client).sendall(data)
                    self.sent += len(data) if end is server else 0


def rows_of(tokenizer, documents):
    return [tokenizer(text)["input_ids"] for text in documents]


def pack(archive, folder, name="rows"):
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, name)
    return archive


@pytest.fixture
def archive(tmp_path, bpe, documents):
    """A .tar.gz of a dataset of save_to_disk, as users upload it."""
    datasets.Dataset.from_dict({"input_ids": rows_of(bpe, documents)}).save_to_disk(tmp_path / "saved")
    return pack(tmp_path / "rows.tar.gz", tmp_path / "saved")


def tokens(corpus, tokenizer, folder):
    prepared = prepare_tokens(corpus, tokenizer, folder)
    return [prepared.tokens(split).tolist() for split in ("train", "validation")]


def test_rows_in_an_archive_on_s3_give_the_same_tokens_as_their_text(bucket, archive, bpe, text_file, tmp_path):
    bucket.put_file(str(archive), "bucket/deep/rows.tar.gz")
    downloads = tmp_path / "data" / "downloads"
    expected = tokens(open_corpus(str(text_file)), bpe, tmp_path / "data")
    for dataset in (
        "s3://bucket/deep/rows.tar.gz",
        f"file://{archive}",
        str(archive),
        f"{archive}#sha256={sha256_of(archive)}",
    ):
        corpus = open_corpus(dataset, downloads=downloads)
        assert corpus.name == "rows" and tokens(corpus, bpe, tmp_path / "data") == expected
    assert not list(downloads.glob("*.partial"))
    bucket.put_file(str(tmp_path / "saved" / "data-00000-of-00001.arrow"), "bucket/deep/rows/a.arrow")
    corpus = open_corpus("s3://bucket/deep/rows", downloads=downloads)
    assert tokens(corpus, bpe, tmp_path / "data") == expected
    fsspec.filesystem("memory").pipe_file("/toys/corpus.txt", text_file.read_bytes())
    corpus = open_corpus("memory://toys/corpus.txt", downloads=downloads)
    assert tokens(corpus, bpe, tmp_path / "data") == expected


def test_a_changed_remote_file_is_fetched_again(bucket, tmp_path):
    found = []
    for text in (b"first", b"other", b"other"):
        bucket.pipe_file("bucket/a.txt", text)
        found.append(fetch("s3://bucket/a.txt", tmp_path))
        assert found[-1].path.read_bytes() == text
    assert found[0].path != found[1].path and found[0].description != found[1].description


def test_an_interrupted_download_is_not_used_and_is_resumed(bucket, server, use, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe.data.remote, "CHUNK", 1 << 16)
    content = np.random.default_rng(0).bytes(1_000_000)
    bucket.pipe_file("bucket/corpus.bin", content)
    use(Proxy(server, limit=600_000).url)
    with pytest.raises(
        SourceBroken, match=r"interrupted at [1-5]\d\d,\d{3} of 1,000,000 bytes: .*run again to continue it"
    ):
        fetch("s3://bucket/corpus.bin", tmp_path)
    (partial,) = tmp_path.glob("*.partial/whole/*")
    downloaded = partial.stat().st_size
    assert 100_000 < downloaded < 600_000 and not (tmp_path / partial.name).exists()
    assert [path.suffix for path in tmp_path.iterdir() if path.is_dir()] == [".partial"]
    proxy = Proxy(server)
    use(proxy.url)
    assert fetch("s3://bucket/corpus.bin", tmp_path).path.read_bytes() == content
    assert proxy.sent < 1_000_000 - downloaded + 50_000 and not list(tmp_path.glob("*.partial"))


def test_a_damaged_file_is_refused_by_its_hash_and_by_its_own_checksum(bucket, archive, tmp_path):
    good = sha256_of(archive)
    content = bytearray(archive.read_bytes())
    for place in (len(content) // 3, len(content) // 2, len(content) - 6):  # the last one is the checksum itself
        content[place] ^= 1
        bucket.pipe_file("bucket/rows.tar.gz", bytes(content))
        with pytest.raises(UserError, match=f"has the sha256 [0-9a-f]{{64}}, expected {good}: it is damaged") as error:
            fetch(f"s3://bucket/rows.tar.gz#sha256={good}", tmp_path / "data")
        assert "\n" not in str(error.value)
        with pytest.raises(UserError, match="is damaged or incomplete"):
            fetch("s3://bucket/rows.tar.gz", tmp_path / "data")
        content[place] ^= 1
    bucket.pipe_file("bucket/rows.tar.gz", archive.read_bytes()[:-100])
    with pytest.raises(UserError, match="is damaged or incomplete"):
        fetch("s3://bucket/rows.tar.gz", tmp_path / "data")
    assert not [path for path in (tmp_path / "data").iterdir() if path.suffix not in (".lock", ".partial")]
    bucket.put_file(str(archive), "bucket/rows.tar.gz")
    assert (fetch(f"s3://bucket/rows.tar.gz#sha256={good}", tmp_path / "data").path / "state.json").exists()


def test_one_process_fetches_and_the_others_wait(bucket, tmp_path, monkeypatch):
    bucket.pipe_file("bucket/a.txt", b"text")
    downloaded, found = [], []

    def slow(*arguments, download=recipe.data.remote._download):
        downloaded.append(arguments)
        time.sleep(0.3)
        download(*arguments)

    monkeypatch.setattr(recipe.data.remote, "_download", slow)
    ranks = [threading.Thread(target=lambda: found.append(fetch("s3://bucket/a.txt", tmp_path))) for _ in range(4)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert len(downloaded) == 1 and [fetched.path.read_text() for fetched in found] == ["text"] * 4


@pytest.fixture
def saved_bpe(tmp_path, bpe):
    """A tokenizer loaded from a folder, as the programs use it."""
    save_tokenizer(bpe, tmp_path / "tokenizer")
    return load_tokenizer(str(tmp_path / "tokenizer"))


@pytest.fixture
def prepared(tmp_path, saved_bpe, text_file):
    return prepare_tokens(open_corpus(str(text_file)), saved_bpe, tmp_path / "made")


@pytest.mark.parametrize("target", ["s3://bucket/there", "folder"])
def test_uploaded_tokens_are_fetched_unchanged(bucket, prepared, saved_bpe, wordpiece, documents, tmp_path, target):
    target = target if "://" in target else str(tmp_path / target)
    require_writable(target)
    url = upload_tokens(prepared, saved_bpe, target)
    assert url == f"{target}/{prepared.folder.name}"
    corpus = open_corpus(url, downloads=tmp_path / "downloads")
    back = load_prepared(corpus.prepared, saved_bpe)
    assert back.fingerprint == prepared.fingerprint and back.splits == prepared.splits
    for split in ("train", "validation"):
        np.testing.assert_array_equal(back.tokens(split), prepared.tokens(split))
    np.testing.assert_array_equal(back.unigram_counts(), prepared.unigram_counts())
    assert (back.folder / "tokenizer" / "tokenizer.json").exists()
    same_size = train_tokenizer(lambda: [text.upper() for text in documents], vocab_size=320, min_frequency=1)
    assert len(same_size) == len(saved_bpe)
    for other in (wordpiece, same_size):
        with pytest.raises(UserError, match="is another one: pass the one that they were made with"):
            load_prepared(corpus.prepared, other)
    files = {name: prepared.folder / name for name in ("train.npy", "prepared.json")}
    assert upload_files(files, f"{target}/twice") is True and upload_files(files, f"{target}/twice") is False


def test_damaged_or_incomplete_uploads_are_refused(bucket, prepared, saved_bpe, tmp_path):
    path = upload_tokens(prepared, saved_bpe, "s3://bucket").removeprefix("s3://")
    good = bucket.cat_file(f"{path}/validation.npy")
    bucket.pipe_file(f"{path}/validation.npy", good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(UserError, match=r"was damaged on the way: validation\.npy doesn't match its sha256") as error:
        open_corpus(f"s3://{path}", downloads=tmp_path / "downloads")
    assert "\n" not in str(error.value) and not (tmp_path / "downloads" / prepared.folder.name).exists()
    bucket.pipe_file(f"{path}/validation.npy", good)
    manifest = bucket.cat_file(f"{path}/manifest.json")
    bucket.rm_file(f"{path}/manifest.json")
    with pytest.raises(UserError, match=r"no manifest\.json: its upload was not finished"):
        open_corpus(f"s3://{path}", downloads=tmp_path / "downloads")
    bucket.pipe_file(f"{path}/manifest.json", manifest)
    assert open_corpus(f"s3://{path}", downloads=tmp_path / "downloads").prepared


def test_an_interrupted_upload_is_not_used_and_can_be_repeated(bucket, prepared, saved_bpe, tmp_path, monkeypatch):
    put, paths = recipe.data.upload._put, []

    def interrupted(system, content, path):
        paths.append(path)
        if len(paths) == 5:
            raise ConnectionError("connection lost")
        put(system, content, path)

    monkeypatch.setattr(recipe.data.upload, "_put", interrupted)
    with pytest.raises(UserError, match=r"cannot write to s3://bucket/.*: connection lost: set AWS_PROFILE"):
        upload_tokens(prepared, saved_bpe, "s3://bucket")
    with pytest.raises(UserError, match="its upload was not finished"):
        open_corpus(f"s3://bucket/{prepared.folder.name}", downloads=tmp_path / "downloads")
    url = upload_tokens(prepared, saved_bpe, "s3://bucket")
    assert open_corpus(url, downloads=tmp_path / "downloads").prepared


def main(monkeypatch, *argv):
    monkeypatch.setattr("sys.argv", ["prepare_data.py", *map(str, argv)])
    prepare_data.main()


def test_prepare_data_reads_rows_from_s3_and_uploads_tokens_that_can_be_the_dataset(
    bucket, archive, saved_bpe, tmp_path, monkeypatch, capsys
):
    bucket.put_file(str(archive), "bucket/rows.tar.gz")
    rows = ("--prepared_dir", tmp_path / "rows", "--dataset_name", "s3://bucket/rows.tar.gz")
    main(monkeypatch, *rows, "--tokenizer_name", tmp_path / "tokenizer", "--upload_to", "s3://bucket/tokens/")
    first = capsys.readouterr().out
    url = first.splitlines()[-1]
    assert url.startswith("s3://bucket/tokens/rows-") and "used" in first
    uploaded = ("--prepared_dir", tmp_path / "uploaded", "--dataset_name", url)
    main(monkeypatch, *uploaded, "--tokenizer_name", "train")  # uses the uploaded tokenizer
    second = capsys.readouterr().out
    counts = [[line for line in out.splitlines() if line.endswith(" documents")] for out in (second, first)]
    assert counts[0] == counts[1] and len(counts[0]) == 2
    with pytest.raises(UserError, match="expected text to train a tokenizer on"):
        main(monkeypatch, *rows, "--tokenizer_name", "train")
    with pytest.raises(UserError, match=r"expected a local folder: prepare_data\.py --upload_to"):
        main(monkeypatch, *rows[2:], "--prepared_dir", "s3://bucket", "--tokenizer_name", tmp_path / "tokenizer")


def test_errors_about_urls_are_one_line(bucket, server, use, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    bucket.touch("bucket/a.txt")
    cases = [
        ("s3://bucket/none.txt", "found nothing at s3://bucket/none.txt"),
        ("s3://nobucket/a.txt", "found nothing at s3://nobucket"),
        ("s4://bucket/a.txt", r"found the URL s4://bucket/a.txt, expected a path or s3://, gs://, hf://"),
        ("hf://datasets/a/b/c.parquet", "on the Hugging Face hub, which cannot be reached"),
        ("s3://bucket#sha256=" + "0" * 64, "is a folder, #sha256= is for a file"),
    ]
    use(server)
    for url, message in cases:
        with pytest.raises(UserError, match=message) as error:
            fetch(url, tmp_path / "data")
        assert "\n" not in str(error.value)
    use(server, credentials=False)
    for action in (lambda: fetch("s3://bucket/a.txt", tmp_path / "data"), lambda: require_writable("s3://bucket")):
        with pytest.raises(UserError, match="credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and") as error:
            action()
        assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"gs://bucket/a\.txt needs the package gcsfs: run pip install gcsfs"):
        fetch("gs://bucket/a.txt", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_server_that_never_answers_times_out(use, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe.data.filesystems, "CONTACT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(UserError, match="no answer within 0 s: check the network"):
            fetch("s3://bucket/a.txt", tmp_path)


def test_a_public_bucket_needs_no_credentials_with_anonymous_access(bucket, server, use, tmp_path, monkeypatch):
    bucket.pipe_file("bucket/a.txt", b"text", ACL="public-read")
    use(server, credentials=False)
    monkeypatch.setenv("FSSPEC_S3_ANON", "true")
    fsspec.config.set_conf_env(fsspec.config.conf)
    try:
        assert fetch("s3://bucket/a.txt", tmp_path).path.read_text() == "text"
    finally:
        fsspec.config.conf.pop("s3", None)


# ---- untrusted archives


def tar_of(path, *members):
    with tarfile.open(path, "w:gz") as tar:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            if kind == tarfile.REGTYPE:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.linkname = content
                tar.addfile(member)
    return path


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../out.txt", tarfile.REGTYPE, b"x")], "is outside of its folder"),
        ([("a/../../out.txt", tarfile.REGTYPE, b"x")], "is outside of its folder"),
        ([("/tmp/out.txt", tarfile.REGTYPE, b"x")], "is outside of its folder"),
        ([("link", tarfile.SYMTYPE, "/etc"), ("link/out.txt", tarfile.REGTYPE, b"x")], "'link', a link or device"),
        ([("hard", tarfile.LNKTYPE, "/etc/passwd")], "'hard', a link or device"),
        ([("pipe", tarfile.FIFOTYPE, "")], "'pipe', a link or device"),
        ([], "is an empty archive"),
    ],
)
def test_unsafe_archives_are_refused(tmp_path, members, message):
    archive = tar_of(tmp_path / "a.tar.gz", ("good.txt", tarfile.REGTYPE, b"good"), *members)
    if not members:
        archive = tar_of(tmp_path / "a.tar.gz")
    with pytest.raises(UserError, match=message):
        fetch(str(archive), tmp_path / "deep" / "data")
    assert not list(tmp_path.rglob("out.txt")) and not [p for p in (tmp_path / "deep" / "data").iterdir() if p.is_dir()]


def test_an_archive_larger_than_the_disk_is_refused(tmp_path, monkeypatch):
    archive = tar_of(tmp_path / "a.tar.gz", ("a.txt", tarfile.REGTYPE, b"x" * 10_000))
    usage = type("Usage", (), {"free": 9_999})
    monkeypatch.setattr(recipe.data.archives.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match=r"0\.0 GB free: free some space"):
        fetch(str(archive), tmp_path / "data")


def test_archives_may_have_a_top_folder_or_none(tmp_path):
    for names in (["./", "./corpus/", "./corpus/a.txt"], ["corpus/a.txt"], ["a.txt"]):
        kinds = [tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE for name in names]
        archive = tar_of(
            tmp_path / "a.tgz",
            *((n, k, b"text" if k == tarfile.REGTYPE else "") for n, k in zip(names, kinds, strict=True)),
        )
        assert list(open_corpus(str(archive), downloads=tmp_path / "data").train.documents()) == ["text"]


def test_names_outside_of_the_listed_folder_are_refused(bucket, tmp_path):
    bucket.pipe_file("bucket/rows/../../out.txt", b"x")
    bucket.pipe_file("bucket/rows/a.txt", b"x")
    with pytest.raises(UserError, match="is outside of its folder"):
        fetch("s3://bucket/rows", tmp_path / "deep" / "data")
    assert not list(tmp_path.rglob("out.txt"))


def test_a_run_trains_on_tokens_from_s3(bucket, prepared, saved_bpe, tmp_path, monkeypatch):
    import run_mlm

    url = upload_tokens(prepared, saved_bpe, "s3://bucket")
    (tmp_path / "model.json").write_text(json.dumps(config_settings("roberta", len(saved_bpe))))
    argv = [
        "run_mlm.py",
        "--config_name",
        tmp_path / "model.json",
        "--tokenizer_name",
        "train",
        "--dataset_name",
        url,
    ]
    argv += ["--prepared_dir", tmp_path / "data", "--output_dir", tmp_path / "run", "--do_train", "--max_steps", 2]
    argv += ["--max_seq_length", 64, "--use_cpu", "true", "--report_to", "none"]
    monkeypatch.setattr("sys.argv", list(map(str, argv)))
    assert run_mlm.main() == 0 and (tmp_path / "run" / "checkpoint-2").exists()
