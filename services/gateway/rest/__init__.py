"""RPCs served under paths of their own, as their `google.api.http` annotations say."""
