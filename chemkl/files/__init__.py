"""Readers of users' files of molecules, tables and texts, whatever program wrote them."""
