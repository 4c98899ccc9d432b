"""TLS between services, with certificates at both ends: files that may change, names, who may call whom.

settings.py   what the variables may hold, and that nothing is plain off loopback unless told so
files.py      certificate, key and authorities as they stand in the files now
identity.py   whose a certificate is: the last part of its SPIFFE ID
callers.py    who calls whom, and why: the one table
"""
