"""What the services of Amazon share: where one answers, and how a request is signed (Signature Version 4, "Create a signed AWS API request", AWS IAM user guide)."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from typing import NamedTuple
from urllib.parse import urlsplit


class Service(NamedTuple):
    """One service in one region, and the account that asks it."""

    name: str  # in the signature: sns, ses
    key_id: str
    secret: str
    region: str

    @property
    def complete(self) -> bool:
        """Whether there are both halves of a key, and what looks like a region."""
        return bool(self.key_id and self.secret and re.fullmatch("[a-z]{2}(-[a-z]+)+-[0-9]+", self.region))

    def address(self, host: str) -> str:
        """Where it answers in this region."""
        return f"https://{host}.{self.region}.{'amazonaws.com.cn' if self.region.startswith('cn-') else 'amazonaws.com'}"

    def signed(self, url: str, kind: str, body: bytes) -> dict[str, str]:
        """The headers of a POST of this content type, signature included."""
        split, stamp = urlsplit(url), time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        headers = {"content-type": kind, "host": split.netloc, "x-amz-date": stamp}
        return {**headers, "Authorization": self._authorization(split.path or "/", headers, body)}

    def _authorization(self, path: str, headers: dict[str, str], body: bytes) -> str:
        names, stamp = sorted(headers), headers["x-amz-date"]
        canonical = "\n".join(["POST", path, "", *(f"{name}:{headers[name]}" for name in names), "", ";".join(names), hashlib.sha256(body).hexdigest()])
        scope = f"{stamp[:8]}/{self.region}/{self.name}/aws4_request"
        key = f"AWS4{self.secret}".encode()
        for part in scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        return f"AWS4-HMAC-SHA256 Credential={self.key_id}/{scope}, SignedHeaders={';'.join(names)}, Signature={signature}"
