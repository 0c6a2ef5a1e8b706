"""What the runs left in S3, read from here with this environment's credentials."""

from urllib.parse import urlparse

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from sppo.store.base import MANIFEST, Manifest
from sppo.store.s3 import S3Store
from tests.cluster.settings import LackError


class Stored:
    """A connection to the S3 that the stages write to."""

    def __init__(self, output: str) -> None:
        """Connect.

        Raises:
            LackError: if it cannot be read from here.
        """
        settings = Config(connect_timeout=5, read_timeout=30, retries={"max_attempts": 3})
        self.client = boto3.client("s3", config=settings)
        bucket = urlparse(output).netloc
        try:
            self.client.list_objects_v2(Bucket=bucket, MaxKeys=1)
        except (BotoCoreError, ClientError) as error:
            raise LackError(f"the bucket {bucket} cannot be read from here (AWS_ENDPOINT_URL, keys): {error}") from None

    def manifest(self, output_uri: str, key: str) -> Manifest | None:
        """The manifest of what is committed at a key of a run."""
        return S3Store(output_uri).manifest(key)

    def committed(self, output_uri: str, key: str) -> float:
        """When something of a run was committed, in seconds since 1970."""
        place = urlparse(f"{output_uri}/{key}/{MANIFEST}")
        head = self.client.head_object(Bucket=place.netloc, Key=place.path.lstrip("/"))
        return float(head["LastModified"].timestamp())

    def text(self, output_uri: str, key: str, file: str) -> str:
        """A file of what is committed at a key of a run."""
        manifest = self.manifest(output_uri, key)
        assert manifest is not None, f"{output_uri}/{key}: nothing is committed there"
        place = urlparse(f"{output_uri}/{key}/{manifest.prefix}/{file}")
        body: bytes = self.client.get_object(Bucket=place.netloc, Key=place.path.lstrip("/"))["Body"].read()
        return body.decode()

    def make_bucket(self, name: str) -> None:
        """Make a bucket.

        Raises:
            LackError: if this environment's credentials may not.
        """
        try:
            self.client.create_bucket(Bucket=name)
        except ClientError as error:
            raise LackError(f"these credentials may make no bucket: {error}") from None

    def remove_bucket(self, name: str) -> None:
        """Remove a bucket and all that is in it."""
        self.remove(f"s3://{name}")
        self.client.delete_bucket(Bucket=name)

    def remove(self, uri: str) -> None:
        """Remove all that lies under a place."""
        store = S3Store(uri)
        prefix = f"{store.prefix}/" if store.prefix else ""
        for name in store.entries(""):
            self.client.delete_object(Bucket=store.bucket, Key=f"{prefix}{name}")
