"""Everything that was made: found, looked at, compared, exported, put into the trash."""
