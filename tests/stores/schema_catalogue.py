"""A database's schema as the catalogue tells it: everything of ours, named, and without ids that differ by chance."""

# ruff: noqa: S608 - names come from here and from the catalogue

# What each grantee may do, in an order that does not depend on when it was granted.
_ACL = """(SELECT string_agg(format('%s=%s%s/%s', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END,
                                    a.privilege_type, CASE WHEN a.is_grantable THEN '*' ELSE '' END,
                                    pg_get_userbyid(a.grantor)), ' ' ORDER BY pg_get_userbyid(a.grantee),
                             a.privilege_type)
             FROM aclexplode(coalesce({acl}, acldefault('{kind}', {owner}))) AS a)"""

CATALOGUE = {
    "schema": f"SELECT nspname, pg_get_userbyid(nspowner), {_ACL.format(acl='nspacl', kind='n', owner='nspowner')}"
    " FROM pg_namespace WHERE nspname = 'qflare'",
    "relations": f"""
        SELECT c.relname, c.relkind, c.relpersistence, c.relrowsecurity, c.relforcerowsecurity, c.relreplident,
               pg_get_userbyid(c.relowner),
               CASE WHEN c.relkind IN ('r', 'p', 'v', 'm') THEN {_ACL.format(acl="relacl", kind="r", owner="relowner")} END,
               pg_get_expr(c.relpartbound, c.oid), pg_get_partkeydef(c.oid), c.reloptions::text, m.amname,
               CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END
          FROM pg_class AS c LEFT JOIN pg_am AS m ON m.oid = c.relam
         WHERE c.relnamespace = 'qflare'::regnamespace ORDER BY 1""",
    "columns": """
        SELECT c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attstorage,
               pg_get_expr(d.adbin, d.adrelid), l.collname, a.attidentity, a.attgenerated, a.attacl::text
          FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
          LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
          LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
         WHERE c.relnamespace = 'qflare'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2""",
    "types": f"""
        SELECT t.typname, t.typtype, format_type(t.typbasetype, t.typtypmod), t.typnotnull, t.typdefault, l.collname,
               pg_get_userbyid(t.typowner), {_ACL.format(acl="typacl", kind="T", owner="typowner")},
               ARRAY(SELECT e.enumlabel FROM pg_enum AS e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder)::text
          FROM pg_type AS t LEFT JOIN pg_collation AS l ON l.oid = t.typcollation
         WHERE t.typnamespace = 'qflare'::regnamespace AND t.typelem = 0 ORDER BY 1""",
    "constraints": """
        SELECT CASE WHEN conrelid <> 0 THEN conrelid::regclass::text ELSE contypid::regtype::text END, conname,
               contype, condeferrable, condeferred, convalidated, connoinherit, pg_get_constraintdef(oid)
          FROM pg_constraint WHERE connamespace = 'qflare'::regnamespace ORDER BY 1, 2""",
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'qflare' ORDER BY 1",
    "functions": f"""
        SELECT p.oid::regprocedure::text, pg_get_functiondef(p.oid), pg_get_userbyid(p.proowner),
               {_ACL.format(acl="proacl", kind="f", owner="proowner")}
          FROM pg_proc AS p WHERE p.pronamespace = 'qflare'::regnamespace ORDER BY 1""",
    "policies": "SELECT * FROM pg_policies WHERE schemaname = 'qflare' ORDER BY tablename, policyname",
    "triggers": """
        SELECT t.tgrelid::regclass::text, t.tgname, t.tgenabled, pg_get_triggerdef(t.oid)
          FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
         WHERE NOT t.tgisinternal AND c.relnamespace = 'qflare'::regnamespace ORDER BY 1, 2""",
    "statistics": "SELECT stxname, pg_get_statisticsobjdef(oid) FROM pg_statistic_ext"
    " WHERE stxnamespace = 'qflare'::regnamespace ORDER BY 1",
    "default privileges": "SELECT pg_get_userbyid(defaclrole), defaclobjtype, defaclacl::text FROM pg_default_acl"
    " ORDER BY 1, 2",
    "comments": """
        SELECT i.type, i.identity, d.description
          FROM pg_description AS d
         CROSS JOIN LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) AS i
         WHERE i.identity LIKE '%qflare%' ORDER BY 1, 2""",
    "versions": "SELECT version FROM qflare.schema_version ORDER BY 1",
}
COLUMNS = """
    SELECT c.relname AS table_name, array_agg(quote_ident(a.attname) ORDER BY a.attnum) AS columns
      FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE c.relnamespace = 'qflare'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
     GROUP BY 1 ORDER BY 1"""


async def catalogue(connection):
    """Return every fact of the schema, by what it is about."""
    return {
        name: [tuple(str(value) for value in row.values()) for row in await connection.fetch(query)]
        for name, query in CATALOGUE.items()
    }


async def columns_by_table(connection):
    """Return each table's columns in order; partitions are their parents'."""
    return {row["table_name"]: tuple(row["columns"]) for row in await connection.fetch(COLUMNS)}


async def digests(connection, columns):
    """Return how many rows each table has and a digest of the named columns of all of them."""
    found = {}
    for table, names in columns.items():
        row = await connection.fetchrow(
            f"SELECT count(*) AS count, md5(string_agg(r::text, ';' ORDER BY r::text)) AS digest"
            f" FROM (SELECT {', '.join(names)} FROM qflare.{table}) AS r"
        )
        found[table] = (row["count"], row["digest"])
    return found
