"""The extra `expunge[service]`: requests of people in a ledger, certificates, own data, and a guarded endpoint.

Nothing imports it but the command line, and only when one of its commands runs.
"""
