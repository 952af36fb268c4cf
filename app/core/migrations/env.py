"""Alembic's environment: runs on the connection that ``Database.migrate`` hands over."""

from alembic import context

from app.core.database import VERSION_TABLE
from app.core.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=False,
)
context.run_migrations()
