"""Amazon SNS: Publish to a phone number (docs.aws.amazon.com/sns/latest/api/API_Publish.html), signed as Signature Version 4 says."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from asyncsend.answers import Refused, Retry
from asyncsend.tasks import presets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncsend.tasks.http import Reply
    from asyncsend.tasks.presets import Account, Asked

LIMIT = ("Throttled", "Throttling", "ThrottlingException", "RequestLimitExceeded")
ACCOUNT = (
    "AuthorizationError", "AccessDenied", "InvalidClientTokenId", "SignatureDoesNotMatch", "IncompleteSignature", "MissingAuthenticationToken", "OptInRequired",
    "RequestExpired", "ExpiredToken", "InvalidSecurity",
)  # fmt: skip
# OptedOut: the number does not want messages of this account
NEVER = ("InvalidParameter", "InvalidParameterValue", "ParameterValueInvalid", "ValidationError", "ValidationException", "OptedOut", "UserError", "NotFound", "EndpointDisabled")


class Preset:
    def __init__(self, account: Account) -> None:
        presets.demand(account.user and account.secret and re.fullmatch("[a-z]{2}(-[a-z]+)+-[0-9]+", account.host), "sns://KEYID:SECRET@eu-west-1?from=Shop, with the region as host")
        self.account = account
        domain = "amazonaws.com.cn" if account.host.startswith("cn-") else "amazonaws.com"
        self.url = account.base(f"https://sns.{account.host}.{domain}") + "/"

    def request(self, message: Mapping[str, Any]) -> Asked:
        presets.text_only(message, "SNS")
        attributes = {"AWS.SNS.SMS.SMSType": self.account.query.get("type", "Transactional")}
        if message["from"]:
            attributes["AWS.MM.SMS.OriginationNumber" if message["from"].startswith("+") else "AWS.SNS.SMS.SenderID"] = message["from"]
        form = {"Action": "Publish", "Version": "2010-03-31", "PhoneNumber": message["to"], "Message": message["text"]}
        for number, (name, value) in enumerate(attributes.items(), 1):
            entry = f"MessageAttributes.entry.{number}"
            form |= {f"{entry}.Name": name, f"{entry}.Value.DataType": "String", f"{entry}.Value.StringValue": value}
        body = urlencode(form).encode()
        headers = {
            "content-type": "application/x-www-form-urlencoded; charset=utf-8", "host": urlsplit(self.url).netloc,
            "x-amz-date": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
        }  # fmt: skip
        headers["Authorization"] = authorization(self.account.user, self.account.secret, self.account.host, headers, body)
        return "POST", self.url, headers, body

    def judge(self, reply: Reply) -> dict[str, Any]:
        said = presets.said_by(reply, self.account)
        sent, code = _element("MessageId", reply.text), _element("Code", reply.text)
        if reply.status == 200 and sent:
            return {"status": 200, "message": sent[:64]}
        if code in LIMIT:
            raise presets.over_limit(said, reply.retry_after)
        if code in ACCOUNT:
            raise presets.refuse_account(said)
        if code in NEVER:
            raise Refused(said, reason="sms-refused")
        if code in ("InternalError", "InternalFailure", "ServiceUnavailable"):
            raise Retry(reply.retry_after, said, reason=f"sms-{reply.status}")
        raise presets.otherwise(reply, said)


def authorization(key_id: str, secret: str, region: str, headers: Mapping[str, str], body: bytes) -> str:
    """The Authorization header of a POST to / with these headers, their names in lower case ("Create a signed AWS API request", AWS IAM user guide)."""
    names, stamp = sorted(headers), headers["x-amz-date"]
    canonical = "\n".join(["POST", "/", "", *(f"{name}:{headers[name]}" for name in names), "", ";".join(names), hashlib.sha256(body).hexdigest()])
    scope = f"{stamp[:8]}/{region}/sns/aws4_request"
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signed = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    return f"AWS4-HMAC-SHA256 Credential={key_id}/{scope}, SignedHeaders={';'.join(names)}, Signature={hmac.new(key, signed.encode(), hashlib.sha256).hexdigest()}"


def _element(name: str, xml: str) -> str | None:
    found = re.search(rf"<{name}>\s*([^<\s]+)\s*</{name}>", xml)
    return found[1] if found else None
