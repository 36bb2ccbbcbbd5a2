"""
Vonage's SMS API (developer.vonage.com/en/api/sms; codes: developer.vonage.com/en/api-errors/sms). Its errors come inside HTTP 200.

A long text has one entry in `messages` for each part, each with a status of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from asyncsend.answers import Refused, Retry, Unknown
from asyncsend.tasks import presets
from asyncsend.tasks.segments import is_gsm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncsend.tasks.http import Reply
    from asyncsend.tasks.presets import Account, Asked

LIMIT = ("1", "10")  # throttled, too many binds
THROTTLED = 5.0  # seconds: its limits are per second
ACCOUNT = ("4", "8", "9", "11", "14", "23", "32")  # login, barred, no credit, not for HTTP, signature, callback, both secret and signature
# A parameter is missing or wrong, unknown prefix, barred number, too long, sender, not allowed, class, network, not on a trial's list, number given up
NEVER = ("2", "3", "6", "7", "12", "15", "19", "20", "22", "29", "33")
SHORTEST_TTL, LONGEST_TTL = 20_000, 604_800_000  # milliseconds


class Preset:
    def __init__(self, account: Account) -> None:
        presets.demand(account.user and account.secret and account.query.get("from"), "vonage://KEY:SECRET@default?from=Shop")
        self.account = account
        self.url = account.base("https://rest.nexmo.com") + "/sms/json"

    def request(self, message: Mapping[str, Any]) -> Asked:
        presets.text_only(message, "Vonage")
        form = {
            "api_key": self.account.user, "api_secret": self.account.secret, "from": message["from"].removeprefix("+"), "to": message["to"].removeprefix("+"),
            "text": message["text"], "client-ref": message["key"],
        }  # fmt: skip
        if not is_gsm(message["text"]):
            form["type"] = "unicode"
        if message["expires_in"]:
            form["ttl"] = str(min(max(SHORTEST_TTL, int(float(message["expires_in"]) * 1000)), LONGEST_TTL))
        if self.account.receipts:
            form |= {"status-report-req": "1", "callback": f"{self.account.receipts}/vonage"}
        return "POST", self.url, {"Content-Type": "application/x-www-form-urlencoded"}, urlencode(form).encode()

    def judge(self, reply: Reply) -> dict[str, Any]:
        said = presets.said_by(reply, self.account)
        parts = presets.members_of(reply).get("messages")
        if reply.status != 200 or not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
            raise presets.otherwise(reply, said)
        codes = [str(part.get("status")) for part in parts]
        if set(codes) == {"0"}:
            return {"status": 200} | ({"message": str(parts[0]["message-id"])[:64]} if "message-id" in parts[0] else {})
        if "0" in codes:
            raise Unknown(f"{said}: some parts of it were taken and others not")
        code = codes[0]
        if code in LIMIT:
            raise presets.over_limit(said, reply.retry_after or THROTTLED)
        if code in ACCOUNT:
            raise presets.refuse_account(said)
        if code in NEVER:
            raise Refused(said, reason="sms-refused")
        raise Retry(reply.retry_after, said, reason=f"sms-vonage-{code}")  # 5 internal error, 13 communication failed
