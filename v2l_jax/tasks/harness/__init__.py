"""What tasks that ask a language model share: prompts, ways to answer, the loop, kept examples."""
