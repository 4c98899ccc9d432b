"""TLS between services, with certificates at both ends: files that may change, names, who may call whom.

settings.py   what the variables may hold, and that nothing is plain off loopback unless told so
files.py      certificate, key and authorities as they stand in the files now
live.py       what this process shows and trusts now: the files, followed as they change
identity.py   whose a certificate is: the last part of its SPIFFE ID
peer.py       who is at the other end of a connection, and what it may do
callers.py    who calls whom, and why: the one table
"""
