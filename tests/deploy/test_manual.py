"""The manual pages and --help say the same."""

import os
import re
import unittest

from tool import POPGATE, output

COMMANDS = [(), ("demo",), ("serve",), ("check",), ("healthcheck",), ("completions",), ("man",)]


class Manual(unittest.TestCase):
    def test_each_sentence_of_the_help_is_in_the_manual(self):
        for command in COMMANDS:
            page = words(manual(*command))
            for paragraph in paragraphs(output(POPGATE, *command, "--help")):
                with self.subTest(command, paragraph=paragraph):
                    self.assertIn(words(paragraph), page)

    def test_each_option_of_the_manual_is_in_the_help(self):
        for command in COMMANDS:
            with self.subTest(command):
                options = set(re.findall(r"--[a-z][a-z-]*", manual(*command)))
                self.assertEqual(options - set(re.findall(r"--[a-z][a-z-]*", output(POPGATE, *command, "--help"))), set())

    def test_each_command_has_a_page(self):
        listed = re.search(r"^Commands:\n((?:  .*\n)+)", output(POPGATE, "--help"), re.MULTILINE)[1]
        names = set(re.findall(r"^  (\w+)", listed, re.MULTILINE)) - {"help"}
        self.assertEqual(names, {command[0] for command in COMMANDS if command})


def manual(*command):
    """As a person reads it, without line breaks."""
    roff = output(POPGATE, "man", *command)
    return output("man", "--local-file", "--encoding=UTF-8", "-", stdin=None, input=roff,
                  env={**os.environ, "MANWIDTH": "10000", "MANPAGER": "cat", "LC_ALL": "C.UTF-8"})


def paragraphs(text):
    """What --help says, without what it only lists, which is laid out otherwise in a manual."""
    for paragraph in re.split(r"\n\s*\n|\n(?= *-)|(?<=>)\n", text):
        head = re.match(r"\s*(Usage:|Commands:|Options:|Arguments:|Possible values:|\[|-|\(|<)", paragraph)
        if not head and "Print help" not in paragraph:
            yield paragraph


def words(text):
    """Apart from line breaks, hyphens and quotes, which are set."""
    text = text.replace("‐", "-").replace("’", "'").replace("`", "").replace("‘", "").replace("−", "-")
    return " ".join(text.replace("'", "").split())
