"""Files that users bring, whatever wrote them: one reader of molecules, one of tables and texts."""
