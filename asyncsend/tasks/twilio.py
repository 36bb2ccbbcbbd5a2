"""Twilio's Messages resource (twilio.com/docs/messaging/api/message-resource; error codes: twilio.com/docs/api/errors)."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode, urljoin

from asyncsend.answers import Refused
from asyncsend.tasks import presets

if TYPE_CHECKING:
    from collections.abc import Mapping

    import requests

    from asyncsend.tasks.http import Reply
    from asyncsend.tasks.presets import Account, Asked

# The number or the text: 21211, 21604, 21614, 21635 no number for SMS; 21610 opted out; 21408, 21608, 21612 not reachable from this account;
# 21602, 21617 no text, too long a one; 21656 ContentVariables.
OPTED_OUT = 21610
NEVER = (21211, 21214, 21217, 21408, 21602, 21604, 21608, OPTED_OUT, 21612, 21614, 21617, 21635, 21656)
# The setting: the sender is none of ours, the messaging service is not there or empty, the address for receipts is no URL.
SETTING = (21212, 21603, 21606, 21609, 21659, 21660, 21701, 21703)
LIMIT = (14107, 20429, 21611, 63038)  # too fast, the sender's queue is full, the account's messages of the day
LONGEST_VALIDITY = 36000  # seconds; Twilio's own default
PAGES, PAGE_SIZE, PAGE_BYTES = 10, 100, 2 * 1024 * 1024  # of the list of messages that is read


class Found(NamedTuple):
    """A message in Twilio's list."""

    sid: str
    status: str
    body: str
    created: datetime


class Preset:
    def __init__(self, account: Account) -> None:
        sender = account.query.get("from", "")
        presets.demand(account.user and account.secret and sender, "twilio://SID:TOKEN@default?from=%2B15550100, or from=MG… for a messaging service")
        self.account = account
        self.url = f"{account.base('https://api.twilio.com')}/2010-04-01/Accounts/{quote(account.user)}/Messages.json"
        self.headers = {"Authorization": "Basic " + base64.b64encode(f"{account.user}:{account.secret}".encode()).decode()}

    def request(self, message: Mapping[str, Any]) -> Asked:
        sender, left = message["from"], message["expires_in"]
        form = {
            "To": message["to"],
            "MessagingServiceSid" if sender.startswith("MG") else "From": sender,
            "Body": message["text"],
            "ContentSid": message["template_id"],
            "ContentVariables": json.dumps(message["params"], ensure_ascii=False) if message["params"] else "",
            "ValidityPeriod": str(min(max(1, int(left)), LONGEST_VALIDITY)) if left else "",
            "StatusCallback": f"{self.account.receipts}/twilio?{urlencode({'job': message['key']})}" if self.account.receipts else "",
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded", **self.headers}
        return "POST", self.url, headers, urlencode({name: value for name, value in form.items() if value}).encode()

    def judge(self, reply: Reply) -> dict[str, Any]:
        body, said = presets.members_of(reply), presets.said_by(reply, self.account)
        if reply.status == 201:
            return {"status": 201} | ({"message": str(body["sid"])[:64]} if "sid" in body else {})
        code = body.get("code")
        if code in LIMIT:
            raise presets.over_limit(said, reply.retry_after or (3600.0 if code == 63038 else None))
        if code in SETTING:
            raise presets.refuse_account(said, reply.retry_after)
        if reply.status == 400 and code in NEVER:
            raise Refused(said, reason="sms-refused").of_channel(**({"suppress": "unsubscribed"} if code == OPTED_OUT else {}))
        raise presets.otherwise(reply, said)

    def find(self, session: requests.Session, to: str) -> list[Found] | None:
        """
        Every message to this number that the account has sent, as far as it tells; None if it does not tell, or there are more than can be read.

        Not narrowed by DateSent, which what is still queued has not: it would look as if it had never come.
        """
        from asyncsend.tasks import http

        found: list[Found] = []
        url = f"{self.url}?{urlencode({'To': to, 'PageSize': PAGE_SIZE})}"
        for _ in range(PAGES):
            reply = http.call(session, "GET", url, headers=self.headers, data=None, timeout=30.0, most_bytes=PAGE_BYTES)
            page = presets.members_of(reply)
            if reply.status != 200 or not reply.whole or not isinstance(page.get("messages"), list):
                return None
            try:
                found += [_found(one) for one in page["messages"] if one["direction"].startswith("outbound")]
            except (KeyError, TypeError, ValueError, AttributeError):
                return None
            if not page.get("next_page_uri"):
                return found
            url = urljoin(self.url, str(page["next_page_uri"]))
            if not url.startswith(self.url.partition("/2010-04-01/")[0] + "/"):
                return None  # our password goes to nobody else
        return None


def _found(one: Mapping[str, Any]) -> Found:
    return Found(str(one["sid"]), str(one["status"]), str(one["body"]), parsedate_to_datetime(one["date_created"]).astimezone(UTC))
