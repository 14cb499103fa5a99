"""Polls a POP3 mailbox and says the subject of each message that it has not seen yet."""

import email
import os
import poplib
import time

poplib._MAXLINE = 65536
seen = set()

while True:
    try:
        mailbox = poplib.POP3(os.environ["MAIL_SERVER"], int(os.environ["MAIL_PORT"]), timeout=60)
        mailbox.user(os.environ["MAIL_LOGIN"])
        mailbox.pass_(os.environ["MAIL_PASSWORD"])
        for line in mailbox.uidl()[1]:
            number, unique_id = line.decode().split()
            if unique_id not in seen:
                message = email.message_from_bytes(b"\r\n".join(mailbox.retr(number)[1]))
                print(f"ticket: {message['subject']}")
                seen.add(unique_id)
        mailbox.quit()
    except (OSError, poplib.error_proto) as error:
        print(f"no mail this time: {error}")
    time.sleep(int(os.environ.get("MAIL_SECONDS", "60")))
