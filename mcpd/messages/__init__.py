"""The Message Manager and what it needs to run calls: in-flight table, sessions, listen streams, outboxes.

Every transports comes through here and nothing comes around it; see `messages.manager`.
"""
