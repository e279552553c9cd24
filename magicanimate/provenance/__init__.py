"""Content credentials (C2PA): sign results, and inspect what files say of themselves.

The form is that of the C2PA (Coalition for Content Provenance and Authenticity, specification 2.x), written
and read by its own library, ``c2pa-python``.
"""
