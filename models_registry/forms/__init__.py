"""The dashboard's forms. They read what was typed; whether it will do is for the services to say."""
