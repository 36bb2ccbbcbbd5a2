"""
What a mail server's refusal means: for this mail, and for all that go the same way. One table, read from top to bottom.

| the reply speaks of | the mail | the channel |
|---|---|---|
| a full mailbox, a mail too big, anything else about this mail or address | tried again (4xx) or dead (5xx) | the failure is counted |
| the host's limit: exceeded, quota, rate, discarded … | waits, uncharged | stopped until the window opens |
| a policy | waits, uncharged; the second time dead | stopped, unless others have passed since it refused one |
| our login or our right to relay | waits, uncharged | broken: stopped, and somebody is told |

RFC 5321 names the replies, RFC 3463 the enhanced codes; the words are those of cPanel's Exim, Postfix, Exchange, Gmail, Amazon SES and the hosts in docs/mail.md.
"""

from __future__ import annotations

import re

from asyncsend.answers import Answer, Refused, Retry, Snooze
from asyncsend.channels import REFUSED_ONCE
from asyncsend.text import printable

# A 5xx with such words speaks of the account, not of this address: cPanel answers 550 "… exceeded the max emails per hour … Message
# discarded", DreamHost "Policy Rejection - Quota Exceeded" (docs/mail.md). Dead jobs would be lost mail.
_LIMIT = re.compile(r"exceed|quota|limit|too many|\brate\b|discarded|throttl|try again", re.IGNORECASE)
_POLICY = re.compile(r"\bpolic(y|ies)\b|\b5\.7\.(26|27|28|29|30|509|515|708|750)\b", re.IGNORECASE)
# RFC 3463: x.2.2 the receiver's mailbox is full, x.2.3 and x.3.4 the message is too big. Neither is about our account.
# The words are for servers that name no such code, Exim and Dovecot among them.
_MAILBOX_FULL = re.compile(r"\b[45]\.2\.2\b|\b(mailbox|inbox)\b.*\b(full|quota|storage)\b|\bover ?quota\b|\b(blocks|inode) limit\b", re.IGNORECASE)
_TOO_BIG = re.compile(r"\b5\.(2\.3|3\.4)\b|\bmessage (too (big|large)|size)\b", re.IGNORECASE)
_RELAY_DENIED = re.compile(
    r"\brelay(ing)?( access)?( is)? (denied|prohibited|forbidden|not (permitted|allowed))|\b(unable|not (allowed|permitted)|do(es)? not|refuse) (to )?relay", re.IGNORECASE
)
# These speak of our login or our right to relay, not of this mail: RFC 4954 section 6, RFC 5321 section 7.1.
_OUR_FAULT = (530, 534, 535, 538, 454)
_ADDRESS = re.compile(r"<[^>]*>|\S+@\S+")
_PERIODS = (  # a word for it: how long until a window of that length has surely moved on; a day's may begin at any hour, so it is asked again
    (re.compile(r"\b(per|a|each) second\b|\bsending rate\b|\bsecondly\b", re.IGNORECASE), 15.0),
    (re.compile(r"\b(per|a|each|/) ?min(ute)?\b", re.IGNORECASE), 75.0),
    (re.compile(r"\b(per|a|each|/) ?day\b|\bdaily\b|\b24 ?h", re.IGNORECASE), 4 * 3600.0),
)
HOUR = 3600.0  # what hosts count in when they do not say
# What Amazon calls its errors, without the "Exception" that some end with (SES API v2, "SendEmail" and "Common Errors"; SNS, "Publish").
LIMIT, ACCOUNT, NEVER = "limit", "account", "never"
_AMAZON = {
    **dict.fromkeys(("Throttled", "Throttling", "TooManyRequests", "LimitExceeded", "RequestLimitExceeded"), LIMIT),
    **dict.fromkeys(
        (
            "AccountSuspended", "SendingPaused", "MailFromDomainNotVerified", "NotFound", "AccessDenied", "AuthorizationError", "NotAuthorized", "InvalidClientTokenId", "UnrecognizedClient",
            "SignatureDoesNotMatch", "InvalidSignature", "IncompleteSignature", "MissingAuthenticationToken", "OptInRequired", "RequestExpired", "ExpiredToken", "InvalidSecurity",
        ), ACCOUNT,
    ),  # NotFound: SES misses an identity or a configuration set
    **dict.fromkeys(("MessageRejected", "BadRequest", "ValidationError", "Validation", "InvalidParameter", "InvalidParameterValue", "ParameterValueInvalid"), NEVER),
}  # fmt: skip
LOGIN_PAUSE = 300.0  # seconds that a mail waits at least while the login is refused
AGAIN = 60.0  # seconds by which the refused mail itself waits longer, so that another one tries the channel next
POLICY = REFUSED_ONCE


def judged(host: str, step: str, code: int, words: str) -> Answer:
    """What this refusal means."""
    said = f"{host} answered {step} with {code} {printable(words, 300)}"
    words = _ADDRESS.sub(" ", words)  # <quota@relay.example> says nothing of quotas or relays
    if _MAILBOX_FULL.search(words):
        return Retry(None, said, reason="mailbox-full").of_channel(failed=True)
    if _TOO_BIG.search(words) or code == 552:
        return Refused(said, reason=f"smtp-{code}").of_channel(failed=True)
    if (code >= 500 or code == 454) and _LIMIT.search(words):
        stop = stop_of(words) or HOUR
        return Snooze(stop + AGAIN, f"{said}: the host's limit, mail waits until it opens", reason="smtp-limit").of_channel(troubled=True, leave_alone=stop)
    if code in _OUR_FAULT or _RELAY_DENIED.search(words):
        return broken(f"{said}: check the login in ASYNCSEND_EMAIL_URL", "smtp-login")
    if code >= 500 and _POLICY.search(words):
        return Snooze(HOUR + AGAIN, f"{said}: a policy of the host, mail waits for an hour", reason=POLICY).of_channel(troubled=True, leave_alone=HOUR)
    if code >= 500:
        return Refused(said, reason=f"smtp-{code}").of_channel(failed=True)
    return Retry(None, said, reason=f"smtp-{code}").of_channel(failed=True)


def stop_of(words: str) -> float | None:
    """Seconds until the limit that these words name has opened; None if they name no time."""
    return next((seconds for pattern, seconds in _PERIODS if pattern.search(words)), None)


def amazon_means(error: str, words: str = "") -> str | None:
    """
    LIMIT, ACCOUNT, NEVER, or None for an error that may be over the next time.

    >>> amazon_means("TooManyRequestsException"), amazon_means("MessageRejected", "Email address is not verified. The following …"), amazon_means("InternalFailure")
    ('limit', 'account', None)
    """
    if error == "MessageRejected" and "not verified" in words:  # the sender, or in an account still in the sandbox the recipient
        return ACCOUNT
    return _AMAZON.get(error.removesuffix("Exception"))


def once_more(answer: Answer, before: str | None) -> Answer:
    """The answer for a mail that waits for this reason already: refused by a policy again, it is the mail itself that somebody has to look at."""
    if isinstance(answer, Snooze) and answer.reason == before == POLICY:
        return Refused(str(answer), reason=POLICY)  # says nothing of the channel: hosts count what they could not deliver, not what they would not take
    return answer


def broken(why: str, reason: str) -> Answer:
    """The answer where nothing gets through before somebody mends our account."""
    return Snooze(LOGIN_PAUSE, why, reason=reason).of_channel(troubled=True, broken=True)
