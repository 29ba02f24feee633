"""What a run leaves behind or keeps for others to look at; each is an observer of facts and news."""
