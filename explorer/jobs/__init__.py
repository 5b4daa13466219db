"""Jobs: requests being worked on. A folder with the request and an append-only event log, and a process that
outlives the app.
"""
