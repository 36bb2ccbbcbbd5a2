"""Amazon SNS: Publish to a phone number (docs.aws.amazon.com/sns/latest/api/API_Publish.html)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from asyncsend.answers import Refused, Retry
from asyncsend.tasks import presets
from asyncsend.tasks.amazon import Service
from asyncsend.tasks.replies import ACCOUNT, LIMIT, NEVER, amazon_means

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncsend.tasks.http import Reply
    from asyncsend.tasks.presets import Account, Asked

OF_NUMBER = ("OptedOut", "UserError", "NotFound", "EndpointDisabled")  # OptedOut: the number does not want messages of this account


class Preset:
    def __init__(self, account: Account) -> None:
        self.service = Service("sns", account.user, account.secret, account.host)
        presets.demand(self.service.complete, "sns://KEYID:SECRET@eu-west-1?from=Shop, with the region as host")
        self.account = account
        self.url = account.base(self.service.address("sns")) + "/"

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
        headers = self.service.signed(self.url, "application/x-www-form-urlencoded; charset=utf-8", body)
        return "POST", self.url, headers, body

    def judge(self, reply: Reply) -> dict[str, Any]:
        said = presets.said_by(reply, self.account)
        sent, code = _element("MessageId", reply.text), _element("Code", reply.text)
        if reply.status == 200 and sent:
            return {"status": 200, "message": sent[:64]}
        means = NEVER if code in OF_NUMBER else amazon_means(code or "")
        if means == LIMIT:
            raise presets.over_limit(said, reply.retry_after)
        if means == ACCOUNT:
            raise presets.refuse_account(said)
        if means == NEVER:
            raise Refused(said, reason="sms-refused")
        if code in ("InternalError", "InternalFailure", "ServiceUnavailable"):
            raise Retry(reply.retry_after, said, reason=f"sms-{reply.status}")
        raise presets.otherwise(reply, said)


def _element(name: str, xml: str) -> str | None:
    found = re.search(rf"<{name}>\s*([^<\s]+)\s*</{name}>", xml)
    return found[1] if found else None
