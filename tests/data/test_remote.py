"""Data from elsewhere, over a real S3 server on loopback: fetched once, continued when cut, refused when damaged."""

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
import recipe.data.remote
from recipe.data.corpus import open_corpus
from recipe.data.inputs import upload_tokens
from recipe.data.preparation import prepare_tokens
from recipe.data.prepared_tokens import load_prepared
from recipe.data.remote import fetch, push, require_writable
from recipe.data.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from recipe.system.errors import SourceBroken, UserError

pytestmark = pytest.mark.skipif(
    not hasattr(tarfile, "data_filter"), reason="this Python refuses archives: 3.11.4, 3.12"
)


@pytest.fixture(scope="module")
def server():
    """The address of an S3 server of our own."""
    pytest.importorskip("s3fs", reason="pip install s3fs")
    moto = pytest.importorskip("moto.server", reason="pip install 'moto[server]'")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def use(monkeypatch, tmp_path):
    """Points s3:// to a server, with credentials or without; what it is told is all it can know."""

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
    """An empty bucket: the file system that it is in."""
    use(server)
    system = fsspec.filesystem("s3")
    if system.exists("bucket"):
        system.rm("bucket", recursive=True)
    system.mkdir("bucket")
    return system


class Wire:
    """A TCP proxy that counts what the server sends, and cuts everything off after `limit` bytes of it."""

    def __init__(self, address: str, limit: int | None = None):
        parts = urlsplit(address)
        self.server, self.limit, self.sent = (parts.hostname, parts.port), limit, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client):
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
    """A .tar.gz of a dataset of save_to_disk, as others upload them."""
    datasets.Dataset.from_dict({"input_ids": rows_of(bpe, documents)}).save_to_disk(tmp_path / "saved")
    return pack(tmp_path / "rows.tar.gz", tmp_path / "saved")


def tokens(corpus, tokenizer, folder):
    prepared = prepare_tokens(corpus, tokenizer, folder, show_progress=False)
    return [prepared.tokens(split).tolist() for split in ("train", "validation")]


def test_rows_in_an_archive_on_s3_give_the_tokens_of_their_text(bucket, archive, bpe, text_file, tmp_path):
    bucket.put_file(str(archive), "bucket/deep/rows.tar.gz")
    downloads = tmp_path / "data" / "downloads"
    expected = tokens(open_corpus(str(text_file)), bpe, tmp_path / "data")
    for dataset in (
        "s3://bucket/deep/rows.tar.gz",
        f"file://{archive}",
        str(archive),
        f"{archive}#sha256={digest(archive)}",
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


def digest(file):
    return recipe.data.remote.sha256_of(file)


def test_what_changed_elsewhere_is_fetched_again(bucket, tmp_path):
    found = []
    for text in (b"first", b"other", b"other"):
        bucket.pipe_file("bucket/a.txt", text)
        found.append(fetch("s3://bucket/a.txt", tmp_path))
        assert found[-1].path.read_bytes() == text
    assert found[0].path != found[1].path and found[0].description != found[1].description


def test_a_download_that_is_cut_is_not_taken_and_continues(bucket, server, use, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe.data.remote, "CHUNK", 1 << 16)
    content = np.random.default_rng(0).bytes(1_000_000)
    bucket.pipe_file("bucket/corpus.bin", content)
    use(Wire(server, limit=600_000).address)
    with pytest.raises(
        SourceBroken, match=r"broke off at [1-5]\d\d,\d{3} of 1,000,000 bytes: .*run again, it continues"
    ):
        fetch("s3://bucket/corpus.bin", tmp_path)
    (partial,) = tmp_path.glob("*.partial/whole/*")
    begun = partial.stat().st_size
    assert 100_000 < begun < 600_000 and not (tmp_path / partial.name).exists()
    assert [path.suffix for path in tmp_path.iterdir() if path.is_dir()] == [".partial"]
    whole = Wire(server)
    use(whole.address)
    assert fetch("s3://bucket/corpus.bin", tmp_path).path.read_bytes() == content
    assert whole.sent < 1_000_000 - begun + 50_000 and not list(tmp_path.glob("*.partial"))


def test_a_damaged_file_is_refused_by_its_hash_and_by_its_own_checksum(bucket, archive, tmp_path):
    good = digest(archive)
    content = bytearray(archive.read_bytes())
    for place in (len(content) // 3, len(content) // 2, len(content) - 6):  # the last one is the checksum itself
        content[place] ^= 1
        bucket.pipe_file("bucket/rows.tar.gz", bytes(content))
        with pytest.raises(UserError, match=f"has the sha256 [0-9a-f]{{64}}, expected {good}: it is damaged") as error:
            fetch(f"s3://bucket/rows.tar.gz#sha256={good}", tmp_path / "data")
        assert "\n" not in str(error.value)
        with pytest.raises(UserError, match="is not a whole archive"):
            fetch("s3://bucket/rows.tar.gz", tmp_path / "data")
        content[place] ^= 1
    bucket.pipe_file("bucket/rows.tar.gz", archive.read_bytes()[:-100])
    with pytest.raises(UserError, match="is not a whole archive"):
        fetch("s3://bucket/rows.tar.gz", tmp_path / "data")
    assert not [path for path in (tmp_path / "data").iterdir() if path.suffix not in (".lock", ".partial")]
    bucket.put_file(str(archive), "bucket/rows.tar.gz")
    assert (fetch(f"s3://bucket/rows.tar.gz#sha256={good}", tmp_path / "data").path / "state.json").exists()


def test_one_process_fetches_and_the_others_wait(bucket, tmp_path, monkeypatch):
    bucket.pipe_file("bucket/a.txt", b"text")
    fetched, found = [], []

    def slow(*arguments, fetch=recipe.data.remote._fetch):
        fetched.append(arguments)
        time.sleep(0.3)
        fetch(*arguments)

    monkeypatch.setattr(recipe.data.remote, "_fetch", slow)
    ranks = [threading.Thread(target=lambda: found.append(fetch("s3://bucket/a.txt", tmp_path))) for _ in range(4)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert len(fetched) == 1 and [brought.path.read_text() for brought in found] == ["text"] * 4


@pytest.fixture
def saved_bpe(tmp_path, bpe):
    """A tokenizer as programs have it: loaded from a folder."""
    save_tokenizer(bpe, tmp_path / "tokenizer")
    return load_tokenizer(str(tmp_path / "tokenizer"))


@pytest.fixture
def prepared(tmp_path, saved_bpe, text_file):
    return prepare_tokens(open_corpus(str(text_file)), saved_bpe, tmp_path / "made", show_progress=False)


@pytest.mark.parametrize("place", ["s3://bucket/there", "folder"])
def test_prepared_tokens_go_out_and_come_back(bucket, prepared, saved_bpe, wordpiece, documents, tmp_path, place):
    place = place if "://" in place else str(tmp_path / place)
    require_writable(place)
    address = upload_tokens(prepared, saved_bpe, place)
    assert address == f"{place}/{prepared.folder.name}"
    corpus = open_corpus(address, downloads=tmp_path / "downloads")
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
    assert push(files, f"{place}/twice") is True and push(files, f"{place}/twice") is False


def test_prepared_tokens_that_are_damaged_or_half_there_are_refused(bucket, prepared, saved_bpe, tmp_path):
    address = upload_tokens(prepared, saved_bpe, "s3://bucket").removeprefix("s3://")
    good = bucket.cat_file(f"{address}/validation.npy")
    bucket.pipe_file(f"{address}/validation.npy", good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(UserError, match=r"came damaged: validation\.npy doesn't match its sha256") as error:
        open_corpus(f"s3://{address}", downloads=tmp_path / "downloads")
    assert "\n" not in str(error.value) and not (tmp_path / "downloads" / prepared.folder.name).exists()
    bucket.pipe_file(f"{address}/validation.npy", good)
    manifest = bucket.cat_file(f"{address}/manifest.json")
    bucket.rm_file(f"{address}/manifest.json")
    with pytest.raises(UserError, match=r"no manifest\.json: its upload was not finished"):
        open_corpus(f"s3://{address}", downloads=tmp_path / "downloads")
    bucket.pipe_file(f"{address}/manifest.json", manifest)
    assert open_corpus(f"s3://{address}", downloads=tmp_path / "downloads").prepared


def test_an_upload_that_is_cut_is_not_taken_and_can_be_repeated(bucket, prepared, saved_bpe, tmp_path, monkeypatch):
    put, count = recipe.data.remote._put, []

    def cut(system, content, path):
        count.append(path)
        if len(count) == 5:
            raise ConnectionError("the line is dead")
        put(system, content, path)

    monkeypatch.setattr(recipe.data.remote, "_put", cut)
    with pytest.raises(UserError, match=r"cannot write to s3://bucket/.*: the line is dead: set AWS_PROFILE"):
        upload_tokens(prepared, saved_bpe, "s3://bucket")
    with pytest.raises(UserError, match="its upload was not finished"):
        open_corpus(f"s3://bucket/{prepared.folder.name}", downloads=tmp_path / "downloads")
    address = upload_tokens(prepared, saved_bpe, "s3://bucket")
    assert open_corpus(address, downloads=tmp_path / "downloads").prepared


def main(monkeypatch, *argv):
    monkeypatch.setattr("sys.argv", ["prepare_data.py", *map(str, argv)])
    prepare_data.main()


def test_the_program_takes_rows_and_gives_tokens_that_a_run_can_name(
    bucket, archive, saved_bpe, tmp_path, monkeypatch, capsys
):
    bucket.put_file(str(archive), "bucket/rows.tar.gz")
    here = ("--prepared_dir", tmp_path / "here", "--dataset_name", "s3://bucket/rows.tar.gz")
    main(monkeypatch, *here, "--tokenizer_name", tmp_path / "tokenizer", "--upload_to", "s3://bucket/tokens/")
    made = capsys.readouterr().out
    address = made.splitlines()[-1]
    assert address.startswith("s3://bucket/tokens/rows-") and "took" in made
    there = ("--prepared_dir", tmp_path / "there", "--dataset_name", address)
    main(monkeypatch, *there, "--tokenizer_name", "train")  # they bring their own
    again = capsys.readouterr().out
    counts = [[line for line in said.splitlines() if line.endswith(" documents")] for said in (again, made)]
    assert counts[0] == counts[1] and len(counts[0]) == 2
    with pytest.raises(UserError, match="expected text to train a tokenizer on"):
        main(monkeypatch, *here, "--tokenizer_name", "train")
    with pytest.raises(UserError, match=r"expected a local folder: prepare_data\.py --upload_to"):
        main(monkeypatch, *here[2:], "--prepared_dir", "s3://bucket", "--tokenizer_name", tmp_path / "tokenizer")


def test_mistakes_with_addresses_are_one_line(bucket, server, use, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    bucket.touch("bucket/a.txt")
    cases = [
        ("s3://bucket/none.txt", "found nothing at s3://bucket/none.txt"),
        ("s3://nobucket/a.txt", "found nothing at s3://nobucket"),
        ("s4://bucket/a.txt", r"found the address s4://bucket/a.txt, expected a path or s3://, gs://, hf://"),
        ("hf://datasets/a/b/c.parquet", "on the Hugging Face hub, which cannot be reached"),
        ("s3://bucket#sha256=" + "0" * 64, "is a folder, #sha256= is for a file"),
    ]
    use(server)
    for address, message in cases:
        with pytest.raises(UserError, match=message) as error:
            fetch(address, tmp_path / "data")
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


def test_a_server_that_never_answers_is_given_up(use, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe.data.remote, "CONTACT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(UserError, match="no answer within 0 s: check the network"):
            fetch("s3://bucket/a.txt", tmp_path)


def test_a_public_bucket_needs_no_credentials_when_told_so(bucket, server, use, tmp_path, monkeypatch):
    bucket.pipe_file("bucket/a.txt", b"text", ACL="public-read")
    use(server, credentials=False)
    monkeypatch.setenv("FSSPEC_S3_ANON", "true")
    fsspec.config.set_conf_env(fsspec.config.conf)
    try:
        assert fetch("s3://bucket/a.txt", tmp_path).path.read_text() == "text"
    finally:
        fsspec.config.conf.pop("s3", None)


# ---- archives, which are anybody's


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
        ([("../out.txt", tarfile.REGTYPE, b"x")], "leads out of its folder"),
        ([("a/../../out.txt", tarfile.REGTYPE, b"x")], "leads out of its folder"),
        ([("/tmp/out.txt", tarfile.REGTYPE, b"x")], "leads out of its folder"),
        ([("link", tarfile.SYMTYPE, "/etc"), ("link/out.txt", tarfile.REGTYPE, b"x")], "'link', a link or device"),
        ([("hard", tarfile.LNKTYPE, "/etc/passwd")], "'hard', a link or device"),
        ([("pipe", tarfile.FIFOTYPE, "")], "'pipe', a link or device"),
        ([], "is an empty archive"),
    ],
)
def test_archives_that_are_refused(tmp_path, members, message):
    archive = tar_of(tmp_path / "a.tar.gz", ("good.txt", tarfile.REGTYPE, b"good"), *members)
    if not members:
        archive = tar_of(tmp_path / "a.tar.gz")
    with pytest.raises(UserError, match=message):
        fetch(str(archive), tmp_path / "deep" / "data")
    assert not list(tmp_path.rglob("out.txt")) and not [p for p in (tmp_path / "deep" / "data").iterdir() if p.is_dir()]


def test_an_archive_larger_than_the_disk_is_refused(tmp_path, monkeypatch):
    archive = tar_of(tmp_path / "a.tar.gz", ("a.txt", tarfile.REGTYPE, b"x" * 10_000))
    usage = type("Usage", (), {"free": 9_999})
    monkeypatch.setattr(recipe.data.remote.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match=r"0\.0 GB free: make room"):
        fetch(str(archive), tmp_path / "data")


def test_archives_as_they_are_made(tmp_path):
    for names in (["./", "./corpus/", "./corpus/a.txt"], ["corpus/a.txt"], ["a.txt"]):
        kinds = [tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE for name in names]
        archive = tar_of(
            tmp_path / "a.tgz",
            *((n, k, b"text" if k == tarfile.REGTYPE else "") for n, k in zip(names, kinds, strict=True)),
        )
        assert list(open_corpus(str(archive), downloads=tmp_path / "data").train.documents()) == ["text"]


def test_names_of_a_listing_stay_in_their_folder(bucket, tmp_path):
    bucket.pipe_file("bucket/rows/../../out.txt", b"x")
    bucket.pipe_file("bucket/rows/a.txt", b"x")
    with pytest.raises(UserError, match="leads out of its folder"):
        fetch("s3://bucket/rows", tmp_path / "deep" / "data")
    assert not list(tmp_path.rglob("out.txt"))


def test_a_run_trains_from_tokens_on_s3(bucket, prepared, saved_bpe, tmp_path, monkeypatch):
    import run_mlm

    address = upload_tokens(prepared, saved_bpe, "s3://bucket")
    (tmp_path / "model.json").write_text(json.dumps(config_settings("roberta", len(saved_bpe))))
    argv = [
        "run_mlm.py",
        "--config_name",
        tmp_path / "model.json",
        "--tokenizer_name",
        "train",
        "--dataset_name",
        address,
    ]
    argv += ["--prepared_dir", tmp_path / "data", "--output_dir", tmp_path / "run", "--do_train", "--max_steps", 2]
    argv += ["--max_seq_length", 64, "--use_cpu", "true", "--report_to", "none"]
    monkeypatch.setattr("sys.argv", list(map(str, argv)))
    assert run_mlm.main() == 0 and (tmp_path / "run" / "checkpoint-2").exists()
