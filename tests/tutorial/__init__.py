"""docs/tutorial.md and docs/tutoriel.md, replayed: their steps are done, and what they show is what was seen.

The pages are the only script there is. Their blocks of code, by the words behind the three backticks:

``toml relay.toml``
    The reader edits /etc/relay/relay.toml: what stands in the block takes the place of what stood there under
    the same ``[table]`` or top-level key; what is commented out (``#relayhost = ...``) is no more.
``toml relay.toml whole``
    The whole file, as the blocks above have made it.
``file PATH``
    Another file of the gateway; it is written.
``console``
    Commands, behind a prompt that says who types and where (``chris@gw1:~$``), and what they print.
``telnet``
    Such a command, and a session typed by hand: a person types commands in capitals, and text after DATA.
``smtp``
    What a mail program of the house's PC (``C:``) and the relay (``S:``) say to each other.
``log``, ``log PATTERN``
    What the relay logged because of the last block that did something; with PATTERN, lines that match it.
``mail SITE``, ``mail /FOLDER``
    The newest message that a site took, or that lies in a Maildir.
``heard SITE``
    The commands of the last session that a site had, but for QUIT: it comes when nothing more is to be said.

A comment ``<!-- world: ... -->`` is something that is not in the reader's hands (``World.happen``).

``python -m tests.tutorial`` replays the pages, and shows where they differ from what is seen; with
``--write`` it mends them. What is different at each run is replaced by samples (``Steady``).
"""
