"""`llmstream chat`: questions and answers by turns."""
