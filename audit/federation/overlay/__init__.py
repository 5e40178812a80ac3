"""Apps under Flower's own engines: an overlay of the app, whose components are ours and load its own.

Light on import: SuperNodes start a process for each message.
"""
