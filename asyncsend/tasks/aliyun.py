"""
Alibaba Cloud SMS: SendSms of dysmsapi 2017-05-25, signed as ACS3-HMAC-SHA256 ("V3 request body and signature", help.aliyun.com).

Templates only, their params text only: `{"code": 123456}` is isv.INVALID_JSON_PARAM (help.aliyun.com "API error codes").
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from asyncsend.answers import BadPayload, Refused, Retry
from asyncsend.tasks import presets
from asyncsend.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncsend.tasks.http import Reply
    from asyncsend.tasks.presets import Account, Asked

LIMIT = ("isv.BUSINESS_LIMIT_CONTROL", "isv.DAY_LIMIT_CONTROL", "isv.MONTH_LIMIT_CONTROL", "isv.SMS_OVER_LIMIT", "Throttling")
ACCOUNT = (
    "isv.AMOUNT_NOT_ENOUGH", "isv.OUT_OF_SERVICE", "isv.PRODUCT_UN_SUBSCRIPT", "isv.PRODUCT_UNSUBSCRIBE", "isv.ACCOUNT_NOT_EXISTS", "isv.ACCOUNT_ABNORMAL",
    "isv.DENY_IP_RANGE", "isv.SMS_SIGNATURE_ILLEGAL", "isv.SIGN_STATE_ILLEGAL", "isv.SMS_SIGN_ILLEGAL", "isp.RAM_PERMISSION_DENY",
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "IncompleteSignature", "InvalidTimeStamp", "Forbidden",
)  # fmt: skip


class Preset:
    def __init__(self, account: Account) -> None:
        presets.demand(account.user and account.secret and account.query.get("sign"), "aliyun://KEYID:SECRET@default?sign=… (the approved signature)")
        self.account = account
        self.url = account.base("https://dysmsapi.aliyuncs.com") + "/"

    def request(self, message: Mapping[str, Any]) -> Asked:
        if not message["template_id"]:
            raise BadPayload("Aliyun sends templates only: give template_id and params instead of text")
        asked = {
            "PhoneNumbers": message["to"].removeprefix("+86").removeprefix("+"), "SignName": message["from"] or self.account.query["sign"],
            "TemplateCode": message["template_id"], "OutId": message["key"],
        }  # fmt: skip
        if message["params"]:
            asked["TemplateParam"] = json.dumps({name: _text(name, value) for name, value in message["params"].items()}, ensure_ascii=False)
        query = "&".join(f"{name}={quote(asked[name], safe='~')}" for name in sorted(asked))
        headers = {
            "host": urlsplit(self.url).netloc, "x-acs-action": "SendSms", "x-acs-version": "2017-05-25", "x-acs-date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "x-acs-signature-nonce": os.urandom(16).hex(), "x-acs-content-sha256": hashlib.sha256(b"").hexdigest(),
        }  # fmt: skip
        headers["Authorization"] = authorization(self.account.user, self.account.secret, query, headers)
        return "POST", f"{self.url}?{query}", headers, b""

    def judge(self, reply: Reply) -> dict[str, Any]:
        body, said = presets.members_of(reply), presets.said_by(reply, self.account)
        code = str(body.get("Code", ""))
        if code == "OK":
            return {"status": reply.status} | ({"message": str(body["BizId"])[:64]} if "BizId" in body else {})
        if code.startswith(LIMIT):
            raise presets.over_limit(said, _opens(code + str(body.get("Message", ""))))
        if code.startswith(ACCOUNT):
            raise presets.refuse_account(said)
        if code.startswith("isp."):
            raise Retry(reply.retry_after, said, reason=f"sms-{code}")
        if code.startswith(("isv.", "Invalid", "Missing")):
            raise Refused(said, reason="sms-refused")
        raise presets.otherwise(reply, said)


def authorization(key_id: str, secret: str, query: str, headers: Mapping[str, str]) -> str:
    """The Authorization header of a POST to / with this query, which is sorted and encoded, and these headers, their names in lower case."""
    names = sorted(headers)
    canonical = "\n".join(["POST", "/", query, *(f"{name}:{headers[name].strip()}" for name in names), "", ";".join(names), headers["x-acs-content-sha256"]])
    signed = "ACS3-HMAC-SHA256\n" + hashlib.sha256(canonical.encode()).hexdigest()
    return f"ACS3-HMAC-SHA256 Credential={key_id},SignedHeaders={';'.join(names)},Signature={hmac.new(secret.encode(), signed.encode(), hashlib.sha256).hexdigest()}"


def _text(name: str, value: Any) -> str:
    if isinstance(value, dict | list) or value is None:
        raise BadPayload(f"params: {printable(name, 60)} must be text or a number")
    return value if isinstance(value, str) else json.dumps(value)


def _opens(words: str) -> float:
    """Seconds after which a limit is tried again, by what it is a limit of: the message names minute, hour, day (分钟级, 小时级, 天级)."""
    if "MONTH" in words or "DAY" in words or "天级" in words:
        return 3600.0
    return 600.0 if "小时级" in words else presets.OPEN_AGAIN
